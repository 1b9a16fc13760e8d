"""Both layouts of IJB-B and IJB-C."""

import itertools

import numpy as np
import pytest
from drawn_ijb import BOX, GALLERIES, make_insightface, make_nist, plan, write_lines

from facereel.data import Skipped, load_faces, read_ijb
from facereel.data.readers.ijb import find_ijb, read_integers
from facereel.errors import UserError

MAKE = {"insightface": make_insightface, "nist": make_nist}


def read(root, skipped=None):
    return list(read_ijb(root, skipped or Skipped()))


def edit(file, change):
    write_lines(file, change(file.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("layout", MAKE)
def test_templates_are_sources_and_media_are_clips_or_stills(layout, name, tmp_path):
    tree = MAKE[layout](tmp_path, name)
    skipped = Skipped()
    rows = read(tmp_path, skipped)
    assert not skipped.counts
    drawn = [*tree.galleries[0], *tree.galleries[1], *tree.probes]
    key = [f"{i}.jpg" for i in range(1, 1 + len(drawn))] if layout == "insightface" else [image.file for image in drawn]
    expected = {
        f"{image.template}/{image.medium}/{file}": (
            str(image.subject),
            str(image.template),
            f"{image.template}/{image.medium}" if "frames" in image.file else "",
        )
        for image, file in zip(drawn, key, strict=True)
    }
    assert {row.key: (row.person, row.source, row.clip) for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(
        (row.landmarks is None, row.box) == (layout == "nist", BOX if layout == "nist" else None) for row in rows
    )


@pytest.mark.parametrize("layout", MAKE)
def test_rows_are_in_order(layout, tmp_path):
    # The frames of the first probe are 9, 10 and 11.
    MAKE[layout](tmp_path, tree=plan(n_subjects=4))
    rows = read(tmp_path)
    people = [person for person, _ in itertools.groupby(row.person for row in rows)]
    assert people == sorted(set(people), key=int)
    clips = [clip for clip, _ in itertools.groupby(row.clip for row in rows if row.clip)]
    assert len(clips) == len(set(clips))
    for _, frames in itertools.groupby(rows, key=lambda row: row.clip):
        numbers = [int(row.key.rpartition("/")[2].removesuffix(".jpg")) for row in frames if row.clip]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("layout", MAKE)
def test_images_are_cropped(layout, tmp_path):
    MAKE[layout](tmp_path)
    skipped = Skipped()
    faces = load_faces(read_ijb(tmp_path, skipped), skipped, size=32)
    assert not skipped.counts
    assert (len(faces.people), len(faces.clips), len(faces.stills)) == (6, 12, 24)
    label = {"insightface": "aligned on the data set's landmarks", "nist": "cropped by the box, without landmarks"}
    assert faces.outcomes == {label[layout]: 60}
    assert {clip.source for clip in faces.clips} <= {still.source for still in faces.stills}


def test_subjects_are_gallery_templates_without_identification_lists(tmp_path):
    make_insightface(tmp_path, with_lists=False)
    subjects = find_ijb(tmp_path).read_subjects()
    assert subjects[1] == subjects[11_001] == subjects[11_007] == "template 1"
    assert len(set(subjects.values())) == 6
    assert len(read(tmp_path)) == 60
    # A probe without a match is a separate person.
    edit(tmp_path / "meta" / "ijbc_template_pair_label.txt", lambda lines: [*lines, "1 20000 0"])
    assert find_ijb(tmp_path).read_subjects()[20_000] == "template 20000"


@pytest.mark.parametrize("layout", MAKE)
def test_pairs_are_labeled(layout, tmp_path):
    tree = MAKE[layout](tmp_path)
    pairs, same = find_ijb(tmp_path).read_pairs()
    assert [(*pair, label) for pair, label in zip(pairs.tolist(), same.tolist(), strict=True)] == tree.pairs


def test_pair_with_an_unknown_template_does_not_match(tmp_path):
    make_nist(tmp_path)
    write_lines(tmp_path / "protocols" / "ijbc_11_G1_G2_matches.csv", ["1,11001", "1,99999", "0,0"])
    assert find_ijb(tmp_path).read_pairs()[1].tolist() == [True, False, False]


def test_damaged_lines_are_counted(tmp_path):
    make_insightface(tmp_path)
    edit(tmp_path / "meta" / "ijbc_name_5pts_score.txt", lambda lines: ["1.jpg 3 x", *lines[1:]])
    edit(
        tmp_path / "meta" / "ijbc_face_tid_mid.txt",
        lambda lines: [*lines, lines[5], "61.jpg 1", "../62.jpg 1 2", "63.jpg 777 2"],
    )
    skipped = Skipped()
    rows = read(tmp_path, skipped)
    assert skipped.counts == {
        "line that cannot be read": 3,
        "duplicate line": 1,
        "image of a template without a subject": 1,
    }
    assert len(rows) == 60
    assert [row.key for row in rows if row.landmarks is None] == ["1/69001/1.jpg"]


def test_damaged_nist_lines_are_counted(tmp_path):
    make_nist(tmp_path)

    def change(lines):
        short, away, no_box = lines[1].split(","), lines[2].split(","), lines[3].split(",")
        away[2], no_box[4] = "../../img/3.jpg", "nan"
        return [*lines, lines[4], ",".join(short[:3]), ",".join(away), ",".join(no_box)]

    edit(tmp_path / "protocols" / "ijbc_1N_gallery_G1.csv", change)
    skipped = Skipped()
    assert len(read(tmp_path, skipped)) == 60
    assert skipped.counts == {"line that cannot be read": 3, "duplicate line": 1}


def test_the_first_release_of_ijbb_is_read(tmp_path):
    make_nist(tmp_path, "ijbb")
    expected = read(tmp_path)
    for file in (tmp_path / "protocol").glob("*_1N_*.csv"):
        edit(file, lambda lines: [lines[0].replace("FILENAME", "FILE"), *lines[1:]])
    assert read(tmp_path) == expected


def test_missing_or_damaged_lists_raise(tmp_path):
    with pytest.raises(UserError, match=r"expected meta/ijbc_face_tid_mid.txt \(InsightFace's release\) or"):
        read(tmp_path)
    make_insightface(tmp_path)
    (tmp_path / "meta" / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(UserError, match=r"ijbc_1N_gallery_G2.csv cannot be read: No such file or directory"):
        read(tmp_path)
    write_lines(tmp_path / "meta" / "ijbc_1N_gallery_G2.csv", ["TEMPLATE_ID,FILENAME"])
    with pytest.raises(UserError, match=r"ijbc_1N_gallery_G2.csv: the header has no column SUBJECT_ID"):
        read(tmp_path)
    write_lines(tmp_path / "meta" / "ijbc_1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID"])
    with pytest.raises(UserError, match=r"ijbc_1N_gallery_G2.csv has no templates"):
        read(tmp_path)
    (tmp_path / "loose_crop").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"there is no folder .*loose_crop"):
        read(tmp_path)


def test_tables_of_integers(tmp_path):
    file = tmp_path / "pairs.txt"
    with pytest.raises(UserError, match=r"there is no file .*pairs.txt"):
        read_integers(file, 3)
    write_lines(file, ["1 2 1", "3  4\t0"])
    assert np.array_equal(read_integers(file, 3), [[1, 2, 1], [3, 4, 0]])
    with pytest.raises(UserError, match=r"pairs.txt must have 2 columns, not 3"):
        read_integers(file, 2)
    for content in (["1 2 1", "1 2"], ["1 2 one"]):
        write_lines(file, content)
        with pytest.raises(UserError, match=r"pairs.txt cannot be read: "):
            read_integers(file, 3)
    file.write_text("")
    with pytest.raises(UserError, match=r"pairs.txt is empty"):
        read_integers(file, 3)


def test_the_generator_has_media_of_both_kinds():
    tree = plan()
    assert {image.file.partition("/")[0] for image in tree.probes} == {"img", "frames"}
    assert not {d.template for d in tree.probes} & {d.template for g in tree.galleries for d in g}
