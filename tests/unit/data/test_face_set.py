import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from drawn_faces import draw_face, make_folder, make_stills, write

from facereel.data import Manifest, Row, Skipped, load_faces, read_folder, read_stills
from facereel.data.select import evenly_spaced, select, to_read
from facereel.errors import UserError


def test_undecodable_image_is_counted_and_its_clip_is_kept(tmp_path):
    make_folder(tmp_path, n_people=2)
    (tmp_path / "clips" / "p0" / "c0" / "1.png").write_bytes(b"not an image")
    (tmp_path / "clips" / "p0" / "c1" / "0.png").write_bytes(b"")
    for i in range(3):
        (tmp_path / "clips" / "p1" / "c2" / f"{i}.png").write_bytes(b"x")
    skipped = Skipped()
    faces = load_faces(read_folder(tmp_path, skipped), skipped, size=16)
    assert skipped.counts == {"image that cannot be decoded": 4, "empty image file": 1}
    lengths = {clip.key: len(clip.rows) for clip in faces.clips}
    assert lengths == {"p0/c0": 2, "p0/c1": 2, "p0/c2": 3, "p1/c0": 3, "p1/c1": 3}
    assert [faces.rows[row].key for row in faces.clips[0].rows] == ["clips/p0/c0/0.png", "clips/p0/c0/2.png"]


def test_empty_data_set_raises_with_the_reasons(tmp_path):
    write(tmp_path / "a" / "1.jpg", draw_face(0, np.random.default_rng(0)))
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    skipped = Skipped()
    with pytest.raises(UserError, match=r"the data set is empty: 1 x image that cannot be decoded \(stills/a/1.jpg\)"):
        load_faces(read_stills(tmp_path, skipped), skipped)
    with pytest.raises(UserError, match="there are no images in it"):
        load_faces([], Skipped())


def test_grayscale_returns_luma_in_three_channels(tmp_path):
    make_stills(tmp_path, {"a": 1})
    color = load_faces(read_stills(tmp_path, Skipped()), Skipped(), size=20)
    grayscale = load_faces(read_stills(tmp_path, Skipped()), Skipped(), size=20, grayscale=True)
    luma = (color.images([0])[0].double() * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(dim=0)
    image = grayscale.images([0])[0]
    assert (luma - image[0]).abs().max() <= 0.51
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    rows = [Row("a", "", "s", "k", "f")]
    assert (type(grayscale)(["a"], white, rows, [], [], grayscale=True).images([0]) == 255).all()


@pytest.mark.parametrize(("count", "expected"), [(1, [5]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))])
def test_evenly_spaced(count, expected):
    assert evenly_spaced(range(10), count) == expected


ROWS = [
    Row("Zoë", "c", "s", "k", "f.jpg", box=(1, 2, 3, 4), central_fraction=0.5),
    Row("b", "", "s2", "k2", "g.mp4", position=7, landmarks=tuple(map(float, range(10)))),
    Row("b", "c", "s", "k3", "g.mp4"),
]


def test_manifest_round_trip(tmp_path):
    Manifest.from_rows(ROWS).save(tmp_path / "manifest.parquet")
    manifest = Manifest.load(tmp_path / "manifest.parquet")
    assert list(manifest) == ROWS
    assert manifest[-1] == ROWS[-1]
    assert manifest[0:2] == ROWS[:2]
    assert list(manifest.take(np.array([2, 0]))) == [ROWS[2], ROWS[0]]
    assert manifest.is_still().tolist() == [False, True, False]
    names, numbers = manifest.names("person")
    assert [names[i] for i in numbers] == ["Zoë", "b", "b"]
    assert manifest.equals(Manifest.from_rows(ROWS))
    assert not manifest.equals(Manifest.from_rows(ROWS[:2]))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]
    assert list(Manifest.from_rows([])) == []


def test_file_that_is_not_a_manifest_raises(tmp_path):
    with pytest.raises(UserError, match=r"there is no manifest .*x\.parquet"):
        Manifest.load(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="cannot read the manifest"):
        Manifest.load(tmp_path / "x.parquet")
    pq.write_table(pa.table({"person": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="it has no column clip, source, key"):
        Manifest.load(tmp_path / "y.parquet")


def filmed(people):
    """Rows of a data set, given the numbers of frames per video and of stills of each person; people are shuffled."""
    rows = []
    for person, (videos, n_stills) in people.items():
        for v, n_frames in enumerate(videos):
            rows += [Row(person, str(v), str(v), f"{person}/{v}/{i}", "") for i in range(n_frames)]
        rows += [Row(person, "", f"s{i}", f"{person}/s{i}", "") for i in range(n_stills)]
    return Manifest.from_rows(rows)


def test_frames_are_selected_evenly_at_random_or_in_pieces():
    manifest = filmed({"a": ([10, 4], 1), "b": ([7], 0)})
    even = select(manifest, max_frames=4)
    assert [(person, name, rows.tolist()) for person, _, name, rows in even.clips] == [
        ("a", "0", [0, 3, 6, 9]),
        ("a", "1", [10, 11, 12, 13]),
        ("b", "0", [15, 17, 19, 21]),
    ]
    assert even.stills.tolist() == [14]
    assert even.rows.tolist() == sorted({*range(0, 10, 3), *range(10, 15), 15, 17, 19, 21})
    pieces = select(manifest, max_frames=4, frames="pieces")
    assert [(name, len(rows)) for _, _, name, rows in pieces.clips] == [
        *(("0#0", 4), ("0#1", 3), ("0#2", 3), ("1", 4), ("0#0", 4), ("0#1", 3)),
    ]
    assert [source for _, source, _, _ in pieces.clips] == ["0", "0", "0", "1", "0", "0"]
    assert pieces.rows.tolist() == list(range(22))
    draws = {
        tuple(select(manifest, max_frames=4, frames="random", seed=seed).clips[0][3].tolist()) for seed in range(20)
    }
    assert len(draws) > 10
    assert all(list(draw) == sorted(set(draw)) and len(draw) == 4 for draw in draws)
    again = [select(manifest, max_frames=4, frames="random", seed=3).clips[2][3].tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_frames_without_a_crop_are_replaced():
    good = np.ones(22, np.bool_)
    good[[0, 5]] = False
    clip = select(filmed({"a": ([10, 4], 1), "b": ([7], 0)}), good, max_frames=4).clips[0]
    assert clip[3].tolist() == [1, 3, 7, 9]


def test_subset_has_the_most_filmed_people_with_stills():
    manifest = filmed({"a": ([9], 1), "b": ([1, 1], 1), "c": ([1, 1, 1], 0), "d": ([1, 2], 1), "e": ([9], 2)})
    chosen = [sorted({clip[0] for clip in select(manifest, n_people=n).clips}) for n in (1, 2, 3, 4)]
    assert chosen == [["d"], ["b", "d"], ["a", "b", "d"], ["a", "b", "d", "e"]]
    with pytest.raises(UserError, match=r"n_people=5: only 4 people have both a clip and a still"):
        select(manifest, n_people=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_frames": 0}, "max_frames=0"),
        ({"frames": "all"}, "frames=all: must be one of even, random, pieces"),
        ({"n_people": 0}, "n_people=0"),
    ],
)
def test_invalid_choices_raise(options, message):
    with pytest.raises(UserError, match=message):
        select(filmed({"a": ([3], 1)}), **options)


def test_all_frames_of_a_video_file_are_read_for_tracking():
    rows = [Row("a", "film", "film", str(i), "film.mp4", position=i) for i in range(9)]
    rows += [Row("a", "b", "b", f"b{i}", f"{i}.jpg") for i in range(9)]
    rows += [Row("z", "film", "film", f"z{i}", "z.mp4", position=i) for i in range(3)]
    manifest = Manifest.from_rows(rows)
    assert to_read(manifest, max_frames=2, n_people=1).tolist() == [*range(9), 9, 17]
    assert to_read(manifest, max_frames=2).tolist() == [*range(9), 9, 17, 18, 19, 20]


def test_names_are_normalized_to_nfc():
    rows = [Row("Jose\u0301", "", "s", "k", "Jose\u0301/k.jpg"), Row("Jos\u00e9", "c", "s", "k2", "f")]
    manifest = Manifest.from_rows(rows)
    assert manifest.names("person")[0] == ["Jos\u00e9"]
    assert manifest[0].file == "Jose\u0301/k.jpg"  # as the disk has it


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (lambda kind: pa.array([1, 2]), "its column person is int64, not"),
        (lambda kind: pa.nulls(2, kind), "its column person has missing values"),
    ],
)
def test_invalid_column_raises(column, message, tmp_path):
    table = Manifest.from_rows([Row("ann", "", "s", f"{i}.jpg", f"{i}.jpg") for i in range(2)]).table
    place = table.column_names.index("person")
    changed = table.set_column(place, "person", column(table.schema.field(place).type))
    pq.write_table(changed, tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match=message):
        Manifest.load(tmp_path / "manifest.parquet")
