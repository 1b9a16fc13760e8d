import numpy as np
import pytest
from drawn_faces import make_folder, make_video
from films import write_film

from facereel.data import Skipped, load_faces, read_folder


def test_images_and_videos(tmp_path):
    make_folder(tmp_path, n_people=2, n_clips=1, n_frames=12, n_stills=1)
    make_video(tmp_path / "clips" / "p0" / "film.mp4", person=0, n_frames=7)
    (tmp_path / "clips" / "p0" / "broken.mp4").write_bytes(b"no video")
    skipped = Skipped()
    rows = list(read_folder(tmp_path, skipped))
    frames = [row.key for row in rows if row.person == "p0" and row.clip == "c0"]
    assert frames == [f"clips/p0/c0/{i}.png" for i in range(12)]
    assert [row.position for row in rows if row.clip == "film.mp4"] == list(range(7))
    assert skipped.counts == {"video that cannot be opened": 1}
    faces = load_faces(rows, skipped, size=32, max_frames=4)
    assert sorted(len(clip.rows) for clip in faces.clips) == [4, 4, 4]
    assert faces.summary() == "2 people, 3 clips with 12 frames from 3 sources, 2 stills"
    assert repr(faces) == "FaceSet(2 people, 3 clips with 12 frames from 3 sources, 2 stills)"


def test_requested_video_frames_are_decoded(tmp_path):
    """Each frame is lighter than the last, so a frame taken at the wrong place shows."""
    stripes = np.where(np.arange(64) // 16 % 2, 10, -10)[:, None, None]
    images = (np.full((64, 64, 3), 20 * i + 20 + stripes, np.uint8) for i in range(10))
    write_film(tmp_path / "clips" / "p" / "film.mp4", images)
    faces = load_faces(read_folder(tmp_path, Skipped()), Skipped(), size=8, max_frames=4)
    (clip,) = faces.clips
    light = faces.images(clip.rows).float().mean(dim=(1, 2, 3))
    assert faces.column("position", clip.rows) == [0, 3, 6, 9]
    assert [round(float(value) / 20) - 1 for value in light] == [0, 3, 6, 9]


def test_skipped_files_are_counted(tmp_path):
    make_folder(tmp_path, n_people=1, n_clips=1, n_frames=1, n_stills=1)
    for stray in ("clips/a.jpg", "clips/p0/b.txt", "clips/p0/c0/c.txt", "stills/d.jpg", "stills/p0/e.txt"):
        (tmp_path / stray).write_text("x")
    (tmp_path / "clips" / "p0" / "c0" / "deeper.jpg").mkdir()
    skipped = Skipped()
    assert len(list(read_folder(tmp_path, skipped))) == 2
    assert skipped.counts == {
        "file outside a person's folder": 2,
        "file that is neither an image nor a video": 1,
        "file that is not an image": 2,
        "folder that is not read": 1,
    }


@pytest.mark.parametrize("ending", ["M4V", "mts", "wmv", "3gp", "mxf", "asf", "ts"])
def test_readers_and_ingest_accept_the_same_video_extensions(tmp_path, ending):
    make_folder(tmp_path, n_people=1, n_clips=1, n_frames=1, n_stills=1)
    make_video(tmp_path / "film.mp4", person=0, n_frames=3)
    (tmp_path / "film.mp4").rename(tmp_path / "clips" / "p0" / f"film.{ending}")
    skipped = Skipped()
    rows = list(read_folder(tmp_path, skipped))
    assert [row.position for row in rows if row.clip == f"film.{ending}"] == [0, 1, 2]
    assert not skipped.counts


@pytest.mark.parametrize("ending", ["JPEG", "jfif", "tif", "heic", "AVIF", "gif"])
def test_readers_accept_every_image_extension(tmp_path, ending):
    make_folder(tmp_path, n_people=1, n_clips=1, n_frames=1, n_stills=1)
    (tmp_path / "stills" / "p0" / f"photo.{ending}").touch()
    skipped = Skipped()
    assert f"stills/p0/photo.{ending}" in [row.key for row in read_folder(tmp_path, skipped)]
    assert not skipped.counts
