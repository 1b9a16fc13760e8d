import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from drawn_faces import make_insightface_bin, make_lfw, make_pairs, write_python2_bin

from facereel.data import Clip, FaceSet, Row, Skipped, Still, load_faces, read_insightface, read_stills
from facereel.errors import UserError
from facereel.evaluation import InsightFacePairs, LFWPairs, Pair, Part, Split, YouTubeFacesPairs
from facereel.evaluation.pairs import ABSENT, read_lfw_pairs, read_pairs

PEOPLE = {"Ann_Lee": 3, "Bo_Öz": 2, "Cy": 2, "Di": 2}
HEADER = "split number, first name, second name, is same, is male\n"


def write_mat(path, pairs, names=None):
    from scipy.io import savemat

    names = names or sorted({key for pair in pairs for key in (pair.first, pair.second)}, reverse=True)
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    folds = sorted({pair.fold for pair in pairs})
    rows = [
        [[names.index(p.first) + 1, names.index(p.second) + 1, p.same] for p in pairs if p.fold == n] for n in folds
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"Splits": np.array(rows, float).transpose(1, 2, 0), "video_names": cells})
    return path


def equal_folds():
    """As in the genuine files every fold has as many pairs."""
    pairs = []
    for fold in (1, 2, 3):
        pairs += [Pair(fold, "Ann_Lee/0", f"Ann_Lee/{n}", True) for n in (1, 2)]
        pairs += [Pair(fold, "Bo_Öz/1", f"Cy/{n}", False) for n in (0, 1)]
    return pairs


def write_text(path, pairs):
    lines = [f"{p.fold}, {p.first}, {p.second}, {int(p.same)}, 1" for p in pairs]
    path.write_text(HEADER + "\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def faces():
    names = [(person, str(n)) for person, count in PEOPLE.items() for n in range(count)]
    rows = [Row(person, n, n, f"{person}/{n}/0.jpg", "") for person, n in names]
    people = list(PEOPLE)
    clips = [Clip(people.index(p), f"{p}/{n}", f"{p}/{n}", (i,)) for i, (p, n) in enumerate(names)]
    return FaceSet(people, torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8), rows, clips, [])


def test_lines_are_read_tolerantly(tmp_path):
    path = tmp_path / "splits.txt"
    text = HEADER + "\n   1 ,  Ann_Lee/0  ,Ann_Lee\\1 , 1 , 0\n\n2,Bo_Öz/1,Cy/0,0,1   \n2,Cy/0,Cy/1,1\n \n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    expected = [
        Pair(1, "Ann_Lee/0", "Ann_Lee/1", True),
        Pair(2, "Bo_Öz/1", "Cy/0", False),
        Pair(2, "Cy/0", "Cy/1", True),
    ]
    assert read_pairs(path) == expected
    path.write_text(text.removeprefix(HEADER + "\n"), encoding="utf-8-sig")  # a first line that is a pair is no header
    assert read_pairs(path) == expected


@pytest.mark.parametrize(
    "line",
    [
        "1, A/0, B/0",
        "1, A/0, B/0, 2, 0",
        "one, A/0, B/0, 1, 0",
        "1, A, B/0, 1, 0",
        "1, A/0, B/0/1, 1, 0",
        "1, /0, B/0, 0",
    ],
)
def test_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "splits.txt"
    path.write_text(f"{HEADER}\n1, A/0, B/0, 0, 1\n{line}\n")
    with pytest.raises(UserError, match=r"splits\.txt, line 4: not a pair .*: " + line):
        read_pairs(path)


def test_both_files_contain_the_same_pairs_and_give_the_same_split(tmp_path, faces):
    text = write_text(tmp_path / "splits.txt", equal_folds())
    mat = write_mat(tmp_path / "meta_and_splits.mat", equal_folds())
    assert read_pairs(text) == read_pairs(mat) == equal_folds()
    splits = [YouTubeFacesPairs(pairs=file).split(faces, 0) for file in (text, mat)]
    assert splits[0].sha256 == splits[1].sha256
    assert [split.pairs_file for split in splits] == ["splits.txt", "meta_and_splits.mat"]


def test_damaged_mat_files_raise(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "meta_and_splits.mat"
    names = ["Ann_Lee/0", "Ann_Lee/1"]
    path.write_bytes(b"\0" * 300)
    with pytest.raises(UserError, match=r"meta_and_splits\.mat cannot be read"):
        read_pairs(path)
    savemat(path, {"Splits": np.ones((2, 3, 2))})
    with pytest.raises(UserError, match="it has no 'video_names'"):
        read_pairs(path)
    write_mat(path, [Pair(1, names[0], names[1], True), Pair(2, "Cy", "Ann_Lee/1", True)], [*names, "Cy"])
    with pytest.raises(UserError, match="'Cy' is not PERSON/VIDEO"):
        read_pairs(path)
    savemat(path, {"Splits": np.ones((2, 4, 2)), "video_names": np.array(names, object)})
    with pytest.raises(UserError, match="Splits must be pairs x 3 x folds, not 2 x 4 x 2"):
        read_pairs(path)
    for bad in ([1, 3, 1], [0, 1, 1], [1.5, 2, 1], [1, 2, 2], [1, float("nan"), 0]):
        table = np.array([[[1, 2, 1], [1, 2, 0]], [[1, 2, 1], bad]], float).transpose(1, 2, 0)
        savemat(path, {"Splits": table, "video_names": np.array(names, object)})
        with pytest.raises(UserError, match=r"Splits\(2, :, 2\) must be two indices from 1 to 2 and 0 or 1"):
            read_pairs(path)


@pytest.mark.slow
def test_missing_scipy_error_gives_the_command(tmp_path, monkeypatch):
    path = write_mat(tmp_path / "meta_and_splits.mat", equal_folds())
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"pip install scipy, or set protocol\.pairs=splits\.txt"):
        read_pairs(path)
    # Nothing else asks for it.
    code = "import sys; sys.modules['scipy'] = None; import facereel.evaluation"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pairs_are_searched_in_the_root(tmp_path):
    protocol = YouTubeFacesPairs(tmp_path)
    with pytest.raises(UserError, match=r"has no splits\.txt nor meta_data/meta_and_splits\.mat"):
        protocol._file()
    write_mat(tmp_path / "meta_data" / "meta_and_splits.mat", equal_folds())
    assert protocol._file() == tmp_path / "meta_data" / "meta_and_splits.mat"
    write_text(tmp_path / "splits.txt", equal_folds())
    assert protocol._file() == tmp_path / "splits.txt"
    assert YouTubeFacesPairs(tmp_path / "frame_images_DB")._file() == tmp_path / "splits.txt"
    assert YouTubeFacesPairs(tmp_path, "other.txt")._file().name == "other.txt"
    with pytest.raises(UserError, match=r"needs protocol\.pairs=FILE: there is no data\.root"):
        YouTubeFacesPairs()._file()
    with pytest.raises(UserError, match=r"protocol\.pairs: there is no file"):
        read_pairs(tmp_path / "other.txt")


def test_test_part_has_the_clips_of_the_pairs_and_absent_ones_are_counted(tmp_path, faces):
    pairs = [*equal_folds(), Pair(1, "Ann_Lee/0", "Ann_Lee/9", True), Pair(2, "Nobody/0", "Cy/0", False)]
    split = YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", pairs)).split(faces, 0)
    assert split.pairs == sorted(equal_folds())
    assert split.notes == {ABSENT: 2}
    assert [clip.key for clip in split.test.clips] == [
        "Ann_Lee/0", "Ann_Lee/1", "Ann_Lee/2", "Bo_Öz/1", "Cy/0", "Cy/1",
    ]  # fmt: skip
    assert not split.test.stills
    assert not split.train.clips


def test_too_few_pairs_raise(tmp_path, faces):
    def split(pairs):
        return YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", pairs)).split(faces, 0)

    with pytest.raises(UserError, match=r"the data set has the clips of 0 of the 1 pairs in .*splits\.txt"):
        split([Pair(1, "Nobody/0", "Nobody/1", True)])
    with pytest.raises(UserError, match="at least two folds are needed"):
        split([pair for pair in equal_folds() if pair.fold == 1])
    with pytest.raises(UserError, match=r"has the clips of 6 of the \d+ pairs in .*, all of one kind"):
        split([pair for pair in equal_folds() if pair.same])
    with pytest.raises(UserError, match="of the 0 pairs"):
        split([])


def test_pairs_are_saved_in_the_split_file_and_hashed(tmp_path, faces):
    split = YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", equal_folds())).split(faces, 0)
    path = tmp_path / "split.json"
    split.save(path)
    loaded = Split.load(path, faces)
    assert loaded == split
    assert loaded.sha256 == json.loads(path.read_text())["sha256"]
    other = [*split.pairs[:-1], split.pairs[-1]._replace(same=not split.pairs[-1].same)]
    assert Split(split.protocol, 0, False, test=split.test, pairs=other).sha256 != split.sha256
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "pairs": [[1, "Ann_Lee/0", "Di/1", False]]}))
    with pytest.raises(UserError, match="a pair of Ann_Lee/0 and Di/1: Di/1 is not in test"):
        Split.load(path, faces)
    for bad in ([1, "Ann_Lee/0"], [1, "Ann_Lee/0", ["Ann_Lee/1"], True], ["1", "Ann_Lee/0", "Ann_Lee/1", True]):
        path.write_text(json.dumps({**content, "pairs": [bad]}))
        with pytest.raises(UserError, match="is not a split file"):
            Split.load(path, faces)


def test_split_without_pairs_keeps_its_hash_and_file(tmp_path):
    clips = [Clip(p, f"p{p}/c{c}", f"p{p}/c{c}", (2 * p + c,)) for p in range(2) for c in range(2)]
    split = Split("leave_one_out", 7, False, test=Part(clips))
    split.save(tmp_path / "split.json")
    # As written before there were pairs.
    assert split.sha256 == "4c924c394c915502c43b454b4b48fa632923c1e6ca17e39bed7639c03df62ad5"
    assert list(json.loads((tmp_path / "split.json").read_text())) == [
        "protocol", "seed", "searches_train", "train", "val", "test", "pretrain_only", "sha256", "notes",
    ]  # fmt: skip


def test_pair_with_an_ambiguous_key_raises():
    clips = [Clip(0, "p/0", "p/0", (0,)), Clip(1, "q/0", "q/0", (1,))]
    pairs = [Pair(1, "p/0", "q/0", False)]
    Split("x", 0, False, test=Part(clips), pairs=pairs).check()
    with pytest.raises(UserError, match="a pair of p/0 and q/0: q/0 is both a clip and a still"):
        Split("x", 0, False, test=Part(clips, [Still(1, "q/1", "q/0", 2)]), pairs=pairs).check()


LFW_TEXT = """2\t2
Ann_Lee\t1\t12
Ann_Lee\t2\t1
Ann_Lee\t1\tBo\t1
Bo\t1\tCy\t3
Bo\t1\t2
Cy\t3\t1
Cy\t1\tBo\t2
Ann_Lee\t2\tCy\t1
"""
LFW_PAIRS = [
    Pair(1, "Ann_Lee_0001", "Ann_Lee_0012", True),
    Pair(1, "Ann_Lee_0002", "Ann_Lee_0001", True),
    Pair(1, "Ann_Lee_0001", "Bo_0001", False),
    Pair(1, "Bo_0001", "Cy_0003", False),
    Pair(2, "Bo_0001", "Bo_0002", True),
    Pair(2, "Cy_0003", "Cy_0001", True),
    Pair(2, "Cy_0001", "Bo_0002", False),
    Pair(2, "Ann_Lee_0002", "Cy_0001", False),
]


def test_pairs_of_lfw_are_read(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text(LFW_TEXT)
    assert read_lfw_pairs(path) == LFW_PAIRS
    path.write_bytes(b"\xef\xbb\xbf" + LFW_TEXT.replace("\t", " ").replace("\n", " \r\n\r\n").encode())
    assert read_lfw_pairs(path) == LFW_PAIRS


def test_development_pairs_are_divided_into_ten_folds(tmp_path):
    path = tmp_path / "pairsDevTest.txt"
    lines = [f"Ann\t{i}\t{i + 1}" for i in range(1, 24)] + [f"Ann\t{i}\tBo\t{i}" for i in range(1, 24)]
    path.write_text("23\n" + "\n".join(lines))
    pairs = read_lfw_pairs(path)
    sizes = [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert [pair.fold for pair in pairs] == 2 * [n for n, size in enumerate(sizes, start=1) for _ in range(size)]
    assert [pair.same for pair in pairs] == [True] * 23 + [False] * 23


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be the numbers of folds"),
        ("10\t300\t1\n", "the first line must be the numbers of folds"),
        ("ten\t300\n", "the first line must be the numbers of folds"),
        ("-1\t300\n", "the first line must be the numbers of folds"),
        ("99999999999\n", "the first line must be the numbers of folds"),
        ("1\t3\nA\t1\t2\n", "has 1 pairs, not 6 as in its first line"),
        ("1\t1\nA\t1\t2\n\nA\t1\tB\n", r"line 4: not a pair \(PERSON, N, M or PERSON, N, PERSON, M\): A\t1\tB"),
        ("1\t1\nA\t1\t2\nA\t1\n", "line 3: not a pair"),
        ("1\t1\nA\t1\t2\nA\t1\tB\t2\t3\n", "line 3: not a pair"),
        ("1\t1\nA\t1\t2\nA\tone\tB\t2\n", "line 3: not a pair"),
    ],
)
def test_other_lfw_files_raise(tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_lfw_pairs(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match=r"protocol\.pairs: there is no file"):
        read_lfw_pairs(tmp_path / "absent.txt")


@pytest.mark.parametrize("place", ["lfw", ".", "elsewhere"])
def test_lfw_pairs_are_found_in_every_location(tmp_path, place):
    people = {"Ann_Lee": 12, "Bo": 2, "Cy": 3, "Di": 1}
    root = make_lfw(tmp_path, people)
    (tmp_path / "pairs.txt").unlink()
    path = tmp_path / place / "pairs.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(LFW_TEXT)
    faces = load_faces(read_stills(root, Skipped()), Skipped(), size=8)
    split = LFWPairs(root, path if place == "elsewhere" else None).split(faces, 0)

    def key(name):
        return f"stills/{name[:-5]}/{name}.jpg"

    assert split.pairs == sorted(pair._replace(first=key(pair.first), second=key(pair.second)) for pair in LFW_PAIRS)
    named = {name for pair in LFW_PAIRS for name in (pair.first, pair.second)}
    assert [still.key for still in split.test.stills] == sorted(map(key, named))
    assert not split.test.clips
    assert not split.notes
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", faces) == split
    # Copies of aligned faces are often PNG files; one that is absent is counted.
    for file in root.rglob("*.jpg"):
        file.rename(file.with_suffix(".png"))
    (root / "Bo" / "Bo_0001.png").unlink()
    faces = load_faces(read_stills(root, Skipped()), Skipped(), size=8)
    split = LFWPairs(pairs=path).split(faces, 0)
    assert len(split.pairs) == 5
    assert split.notes == {ABSENT: 3}


def test_insightface_pairs_are_consecutive_images_in_ten_folds(tmp_path):
    path = tmp_path / "agedb_30.bin"
    same = make_insightface_bin(path, n_pairs=23)
    faces = load_faces(read_insightface(path, Skipped()), Skipped(), size=8)
    split = InsightFacePairs(path).split(faces, 0)
    assert [(int(pair.first), int(pair.second)) for pair in split.pairs] == [(2 * i, 2 * i + 1) for i in range(23)]
    assert [pair.same for pair in split.pairs] == same
    # As scikit-learn's KFold without shuffling.
    assert np.bincount([pair.fold for pair in split.pairs]).tolist() == [0, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert [pair.fold for pair in split.pairs] == sorted(pair.fold for pair in split.pairs)
    assert split.pairs_file == "agedb_30.bin"
    with pytest.raises(UserError, match=r"is not a file; set protocol\.pairs=FILE"):
        InsightFacePairs(tmp_path).split(faces, 0)
    # An image that does not decode takes its pair with it; the other pairs keep their folds.
    path = write_python2_bin(path, [b"x", *[b"\xff"] * 45], same, arrays=False)
    kept = FaceSet(faces.people, faces.crops, faces.rows, [], faces.stills[1:])
    assert InsightFacePairs(path).split(kept, 0).pairs == split.pairs[1:]


def test_drawn_pairs_match_the_drawn_tree(tmp_path, faces):
    pairs = read_pairs(make_pairs(tmp_path, PEOPLE, n_folds=2))
    assert {pair.fold for pair in pairs} == {1, 2}
    assert {pair.same for pair in pairs} == {True, False}
    assert all(pair.same == (pair.first.split("/")[0] == pair.second.split("/")[0]) for pair in pairs)
    assert {key for pair in pairs for key in (pair.first, pair.second)} <= {clip.key for clip in faces.clips}
