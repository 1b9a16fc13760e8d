from pathlib import Path

from drawn_faces import make_stills

from facereel.data import Skipped, read_stills


def test_stills(tmp_path):
    make_stills(tmp_path, {"Ann_Lee": 2, "Bo": 1})
    (tmp_path / "Ann_Lee" / "notes.txt").write_text("x")
    skipped = Skipped()
    rows = list(read_stills(tmp_path, skipped))
    assert [row.key for row in rows] == [
        "stills/Ann_Lee/Ann_Lee_0001.jpg",
        "stills/Ann_Lee/Ann_Lee_0002.jpg",
        "stills/Bo/Bo_0001.jpg",
    ]
    assert len({row.source for row in rows}) == 3
    assert skipped.counts["file that is not an image"] == 1


def test_shared_data_has_the_expected_counts(shared):
    skipped = Skipped()
    stills = list(read_stills(shared / "data" / "lfw", skipped))
    assert len(stills) == 5127
    assert len({row.person for row in stills}) == 642
    assert not skipped.counts


def test_phone_and_browser_image_formats_are_stills(tmp_path):
    names = ["a.HEIC", "b.heif", "c.hif", "d.avif", "e.gif", "f.tiff", "g.jfif", "h.webp"]
    (tmp_path / "Ann").mkdir()
    for name in (*names, "i.mp4"):
        (tmp_path / "Ann" / name).touch()
    skipped = Skipped()
    assert [Path(row.file).name for row in read_stills(tmp_path, skipped)] == names
    assert skipped.counts["file that is not an image"] == 1
