import cv2
import numpy as np
import pytest
from drawn_faces import draw_face, make_aligned_youtube_faces, make_youtube_faces, write

from facereel.data import Skipped, load_faces, read_youtube_faces
from facereel.errors import UserError


def rows_of(root, skipped=None, **options):
    return list(read_youtube_faces(root, skipped or Skipped(), **options))


def test_boxes_are_centered_and_frames_in_natural_order(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 2}, n_frames=3)
    rows = rows_of(tmp_path)
    assert [row.key for row in rows[:3]] == ["Ann_Lee/0/0.8.jpg", "Ann_Lee/0/0.9.jpg", "Ann_Lee/0/0.10.jpg"]
    assert rows[0].box == (62 - 32, 42 - 31, 64, 62)
    assert [(row.clip, row.source) for row in rows] == [("0", "0")] * 3 + [("1", "1")] * 3


def test_people_and_videos_are_in_order(tmp_path):
    make_youtube_faces(tmp_path, {"P10": 11, "P9": 1}, n_frames=1)
    assert [(row.person, row.clip) for row in rows_of(tmp_path)] == [
        ("P9", "0"),
        *(("P10", str(video)) for video in range(11)),
    ]


@pytest.mark.parametrize("name", ["frame_images_DB", "renamed"])
def test_image_folder_is_accepted_as_root(name, tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1})
    expected = [row[:4] for row in rows_of(tmp_path)]
    (tmp_path / "frame_images_DB").rename(tmp_path / name)
    assert [row[:4] for row in rows_of(tmp_path / name)] == expected


def test_skipped_files_are_counted(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1, "Bo_Öz": 1, "No_Labels": 1})
    frames = tmp_path / "frame_images_DB"
    (frames / "No_Labels.labeled_faces.txt").rename(frames / "No_Folder.labeled_faces.txt")
    (frames / "Ann_Lee" / "0" / "0.9.jpg").unlink()
    write(frames / "Ann_Lee" / "0" / "0.99.jpg", draw_face(0, np.random.default_rng(0)))
    labels = frames / "Bo_Öz.labeled_faces.txt"
    bad_boxes = "".join(f"\nBo_Öz\\0\\0.8.jpg,0,{box},0,1" for box in ("x,y,1,1", "5,5,0,0", "nan,5,9,9", "5,5,inf,9"))
    twice = "\nBo_Öz\\0\\0.8.jpg,0,62,42,64,62,0.0,1\n\n"
    labels.write_text("\n \n  " + labels.read_text(encoding="utf-8") + bad_boxes + twice, encoding="utf-8")
    for stray in ("notes.txt", "Ann_Lee/0.8.jpg", "Ann_Lee/0/Thumbs.db"):
        (frames / stray).write_text("x")
    (frames / "Ann_Lee" / "0" / "more").mkdir()
    skipped = Skipped()
    rows = rows_of(tmp_path, skipped)
    assert len(rows) == 2 + 3
    assert dict(skipped.counts) == {
        "person without a labeled_faces.txt": 1,
        "label line without its frame": 1,
        "frame without a label line": 1,
        "label line that cannot be read": 4,
        "duplicate label line": 1,
        "label file of a person without a folder": 1,
        "file outside a person's folder": 1,
        "file outside a video's folder": 1,
        "file that is not an image": 1,
        "folder that is not read": 1,
    }
    assert any("Ann_Lee/0/0.9.jpg" in line for line in skipped.lines())


def test_duplicate_frame_number_is_counted(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1})
    frames = tmp_path / "frame_images_DB"
    for name in ("0.8.png", "0.09.jpg"):
        write(frames / "Ann_Lee" / "0" / name, draw_face(0, np.random.default_rng(0)))
    with (frames / "Ann_Lee.labeled_faces.txt").open("a") as file:
        file.write("\nAnn_Lee\\0\\0.8.png,0,1,1,2,2,0,1")
    skipped = Skipped()
    assert [row.key[-8:] for row in rows_of(tmp_path, skipped)] == ["/0.8.jpg", "/0.9.jpg", "0.10.jpg"]
    assert skipped.counts == {"duplicate label line": 1, "duplicate frame number": 2}


def test_label_files_with_windows_line_ends(tmp_path):
    """A byte order mark, a blank line and carriage returns."""
    make_youtube_faces(tmp_path, {"Ann_Lee": 1})
    expected = rows_of(tmp_path)
    labels = tmp_path / "frame_images_DB" / "Ann_Lee.labeled_faces.txt"
    labels.write_bytes(b"\xef\xbb\xbf\r\n" + labels.read_bytes().replace(b"\n", b"\r\n"))
    skipped = Skipped()
    assert rows_of(tmp_path, skipped) == expected
    assert not skipped.counts


def test_a_label_file_that_is_a_folder_is_counted(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1, "Bo": 1})
    labels = tmp_path / "frame_images_DB" / "Bo.labeled_faces.txt"
    labels.unlink()
    labels.mkdir()
    skipped = Skipped()
    assert {row.person for row in rows_of(tmp_path, skipped)} == {"Ann_Lee"}
    assert skipped.counts["person without a labeled_faces.txt"] == 2


def test_crop_shows_the_labeled_face(tmp_path):
    """A box read as a corner would crop the drawn face, which is right and up of the center."""
    make_youtube_faces(tmp_path, {"Ann_Lee": 1}, n_frames=1)
    faces = load_faces(rows_of(tmp_path), Skipped(), size=64)
    image = cv2.imread(str(tmp_path / "frame_images_DB" / "Ann_Lee" / "0" / "0.8.jpg"))
    expected = image[10:74, 30:94, ::-1].transpose(2, 0, 1)
    assert np.array_equal(faces.images([0])[0].numpy(), expected)


def test_aligned_images(tmp_path):
    make_aligned_youtube_faces(tmp_path, {"Ann_Lee": 2, "Bo_Öz": 1})
    folder = tmp_path / "aligned_images_DB" / "Ann_Lee" / "1"
    write(folder / "aligned_detect_1.8.png", draw_face(0, np.random.default_rng(0)))
    write(folder / "cover.jpg", draw_face(0, np.random.default_rng(0)))
    skipped = Skipped()
    rows = rows_of(tmp_path, skipped)
    assert [row.key for row in rows[:3]] == [f"Ann_Lee/0/aligned_detect_0.{i}.jpg" for i in (8, 9, 10)]
    assert [(row.person, row.clip, row.source) for row in rows[::3]] == [
        ("Ann_Lee", "0", "0"),
        ("Ann_Lee", "1", "1"),
        ("Bo_Öz", "0", "0"),
    ]
    assert {(row.box, row.central_fraction) for row in rows} == {(None, 1 / 2.2)}
    assert skipped.counts == {"duplicate frame number": 1, "frame without a number": 1}
    assert rows_of(tmp_path / "aligned_images_DB") == rows


def test_crop_of_an_aligned_image_is_its_center(tmp_path):
    """Around the drawn face the image is white."""
    make_aligned_youtube_faces(tmp_path, {"Ann_Lee": 1}, n_frames=1)
    faces = load_faces(rows_of(tmp_path), Skipped(), size=40)
    image = cv2.imread(str(tmp_path / "aligned_images_DB" / "Ann_Lee" / "0" / "aligned_detect_0.8.jpg"))
    assert np.array_equal(faces.images([0])[0].numpy(), image[24:64, 24:64, ::-1].transpose(2, 0, 1))


def test_images_option_selects_the_folder(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1})
    with pytest.raises(UserError, match=r"there is no aligned_images_DB in .*images=aligned"):
        rows_of(tmp_path, images="aligned")
    make_aligned_youtube_faces(tmp_path, {"Ann_Lee": 1})
    assert all(row.box for row in rows_of(tmp_path))
    assert rows_of(tmp_path, images="frames") == rows_of(tmp_path)
    assert {row.box for row in rows_of(tmp_path, images="aligned")} == {None}
    with pytest.raises(UserError, match="images=both: must be one of auto, frames, aligned"):
        rows_of(tmp_path, images="both")
    with pytest.raises(UserError, match="aligned_fraction=0: must be above 0"):
        rows_of(tmp_path, aligned_fraction=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no frame_images_DB or aligned_images_DB in"):
        rows_of(tmp_path / "empty")


def test_shared_data_has_the_expected_counts(shared):
    skipped = Skipped()
    rows = rows_of(shared / "data" / "youtube_faces", skipped)
    assert len(rows) == 4305
    assert len({row.person for row in rows}) == 258
    assert len({(row.person, row.clip) for row in rows}) == 861
    assert not skipped.counts
