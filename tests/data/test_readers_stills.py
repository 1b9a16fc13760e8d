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
    assert skipped.counts["file that is not a picture"] == 1


def test_counts_of_the_shared_data(shared):
    skipped = Skipped()
    stills = list(read_stills(shared / "data" / "lfw", skipped))
    assert len(stills) == 5127
    assert len({row.person for row in stills}) == 642
    assert not skipped.counts
