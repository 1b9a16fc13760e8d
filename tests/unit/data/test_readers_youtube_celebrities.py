from drawn_faces import make_video, make_youtube_celebrities

from facereel.data import Skipped, load_faces, read_youtube_celebrities


def read(root, skipped=None):
    return list(read_youtube_celebrities(root, skipped or Skipped()))


def test_file_names_give_source_and_person(tmp_path):
    make_youtube_celebrities(tmp_path, {"bo_van_öz": 1, "ann": 2}, n_frames=2)
    skipped = Skipped()
    rows = read(tmp_path, skipped)
    assert [(row.person, row.clip, row.source) for row in rows[::2]] == [
        ("ann", "0003_01_001_ann", "01"),
        ("ann", "0004_01_002_ann", "01"),
        ("ann", "0005_02_001_ann", "02"),
        ("ann", "0006_02_002_ann", "02"),
        ("bo_van_öz", "0001_01_001_bo_van_öz", "01"),
        ("bo_van_öz", "0002_01_002_bo_van_öz", "01"),
    ]
    assert [(row.key, row.position, row.box) for row in rows[:2]] == [
        ("0003_01_001_ann.avi#0", 0, None),
        ("0003_01_001_ann.avi#1", 1, None),
    ]
    assert not skipped.counts
    assert load_faces(rows, skipped, size=16).summary() == "2 people, 6 clips with 12 frames from 3 sources, 0 stills"


def test_folders_of_videos_give_the_same_rows(tmp_path):
    make_youtube_celebrities(tmp_path / "flat", {"ann": 1, "bo": 1})
    make_youtube_celebrities(tmp_path / "deep" / "any", {"ann": 1, "bo": 1})
    assert [row[:4] for row in read(tmp_path / "deep")] == [row[:4] for row in read(tmp_path / "flat")]


def test_clips_are_in_natural_order(tmp_path):
    for name in ("10_1_1_ann.avi", "9_2_1_ann.avi"):
        make_video(tmp_path / name, person=0, n_frames=1)
    assert [row.clip for row in read(tmp_path)] == ["9_2_1_ann", "10_1_1_ann"]


def test_skipped_files_are_counted(tmp_path):
    make_youtube_celebrities(tmp_path, {"ann": 1}, n_frames=1)
    make_youtube_celebrities(tmp_path / "again", {"ann": 1}, n_frames=1)
    for name in ("0009_01_001_ann.avi", "0010_ann.avi", "0011_01_001_.avi", "readme.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "again" / "deeper").mkdir()
    skipped = Skipped()
    assert [row.key for row in read(tmp_path, skipped)] == ["0001_01_001_ann.avi#0", "0002_01_002_ann.avi#0"]
    assert skipped.counts == {
        "duplicate video": 2,
        "video with a name other than NNNN_VV_SSS_person": 2,
        "video that cannot be opened": 1,
        "file that is not a video": 1,
        "folder that is not read": 1,
    }
