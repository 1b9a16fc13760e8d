"""The prepare command on every source, and data sets joined from several."""

import json
import shutil

import numpy as np
import pytest
from commands import run
from drawn_faces import (
    make_aligned_youtube_faces,
    make_folder,
    make_umdfaces,
    make_umdfaces_videos,
    make_video,
    make_youtube_celebrities,
)
from prepared_faces import NO_DETECTOR

from facereel.data import open_prepared
from facereel.data.crop_table import read_prepared
from facereel.errors import UserError

pytestmark = pytest.mark.slow


def test_separately_prepared_clips_and_stills_are_joined_by_name(trees, tmp_path, prepare):
    prepare()
    stills = make_folder(tmp_path / "stills", n_people=1, n_clips=1, n_stills=0)
    shutil.copytree(trees / "lfw", stills / "stills")
    assert run("prepare", "folder", stills, tmp_path / "out2", "--margin", "1.2", *NO_DETECTOR) == 0
    clips, other = open_prepared(tmp_path / "out"), open_prepared(tmp_path / "out2")
    faces = clips.with_stills(other).face_set()
    assert faces.summary() == "4 people, 8 clips with 24 frames from 8 sources, 5 stills"
    for still in faces.stills:
        row = next(i for i, row in enumerate(other.manifest) if row.key == still.key)
        assert np.array_equal(faces.images([still.row]), other.face_set().images([row]))
    for clip in faces.clips:
        own = next(c for c in clips.face_set().clips if c.key == clip.key)
        assert np.array_equal(faces.images(clip.rows), clips.face_set().images(own.rows))
    quick = ["debug=tiny", "stages.stage2=null", "encoder.width=0.125", "head.n_bits=8"]
    both = [f"data.manifest={tmp_path / 'out'}", f"data.stills_root={tmp_path / 'out2'}"]
    assert run("train", *both, *quick, f"out={tmp_path / 'run'}") == 0
    assert (
        run(
            "train",
            f"data.manifest={tmp_path / 'out'}",
            f"data.stills_root={trees / 'lfw'}",
            *quick,
            f"out={tmp_path / 'run2'}",
        )
        == 0
    )
    assert run("prepare", "folder", stills, tmp_path / "out3", "--size", "32", *NO_DETECTOR) == 0
    with pytest.raises(UserError, match="clips with crops of size 64 cannot be combined with stills of size 32"):
        clips.with_stills(open_prepared(tmp_path / "out3"))


def test_a_subset_of_people_and_frames(tmp_path, prepare):
    output = prepare("--people", "2", "--max-frames", "2").out
    assert "2 people, 6 clips with 12 frames" in output
    assert len(read_prepared(tmp_path / "out")[0]) == 12


def make_umdfaces_stills(root):
    make_umdfaces(root, {"Ann": 2, "Bo": 1}, {"Bo": 2})


def make_folder_with_a_video(root):
    make_folder(root, n_people=1, n_clips=1, n_frames=2, n_stills=1)
    make_video(root / "clips" / "p1" / "film.mp4", person=1, n_frames=4)


@pytest.mark.parametrize(
    ("source", "make", "found", "how"),
    [
        (
            "youtube_faces",
            lambda root: make_aligned_youtube_faces(root, {"Ann": 2, "Bo": 1}),
            "2 people, 3 clips with 9 frames from 3 sources, 0 stills",
            "9 x cropped by the central fraction",
        ),
        (
            "umdfaces",
            make_umdfaces_stills,
            "2 people, 0 clips with 0 frames from 0 sources, 5 stills",
            "5 x aligned on the data set's landmarks",
        ),
        (
            "umdfaces_videos",
            lambda root: make_umdfaces_videos(root, {"Ann": 2, "Bo": 1}),
            "2 people, 3 clips with 9 frames from 3 sources, 0 stills",
            "9 x aligned on the data set's landmarks",
        ),
        (
            "youtube_celebrities",
            lambda root: make_youtube_celebrities(root, {"ann_lee": 2, "bo": 1}),
            "2 people, 6 clips with 18 frames from 3 sources, 0 stills",
            "18 x used whole",
        ),
        (
            "folder",
            make_folder_with_a_video,
            "2 people, 2 clips with 6 frames from 2 sources, 1 stills",
            "7 x used whole",
        ),
    ],
)
def test_every_source_is_prepared_inspected_and_trained_on(source, make, found, how, tmp_path, capsys):
    make(tmp_path / "root")
    assert run("prepare", source, tmp_path / "root", tmp_path / "out", *NO_DETECTOR) == 0
    output = capsys.readouterr().out
    assert found in output
    assert how in output
    assert run("inspect", tmp_path / "root", "--contact-sheet", tmp_path / "a.png") == 0  # its layout is seen
    assert run("inspect", tmp_path / "out", "--contact-sheet", tmp_path / "b.png") == 0
    if "0 clips" not in found:
        quick = ["debug=tiny", "stages.stage2=null", "encoder.width=0.125", "protocol.test_fraction=0.5"]
        assert run("train", f"data.manifest={tmp_path / 'out'}", *quick, f"out={tmp_path / 'run'}") == 0


def test_umdfaces_stills_and_videos_are_joined_by_folder_name(tmp_path, capsys):
    make_umdfaces(tmp_path / "stills", {"Ann": 2, "Bo": 1}, {"Bo": 2, "Stranger": 1})
    make_umdfaces_videos(tmp_path / "videos", {"Ann": 3, "Bo": 3, "Cy": 2})
    quick = ["debug=tiny", "stages.stage2=null", "encoder.width=0.125"]
    lies = [f"data.root={tmp_path / 'videos'}", f"data.stills_root={tmp_path / 'stills'}"]
    assert run("train", "data=umdfaces", *lies, "data.n_people=2", *quick, f"out={tmp_path / 'run'}") == 0
    output = capsys.readouterr().out
    assert "data: 2 people, 6 clips with 18 frames from 6 sources, 5 stills" in output
    assert "23 x aligned on the data set's landmarks" in output
    arguments = [tmp_path / "videos", tmp_path / "out", "--stills", tmp_path / "stills", "--people", "2"]
    assert run("prepare", "umdfaces_videos", *arguments, *NO_DETECTOR) == 0
    assert run("train", f"data.manifest={tmp_path / 'out'}", *quick, f"out={tmp_path / 'run2'}") == 0
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "run2"))
    assert a == b


def test_custom_reader_is_selected_by_name(tmp_path, prepare, monkeypatch, trees):
    (tmp_path / "my_readers.py").write_text(
        "from facereel.data import read_youtube_faces\n"
        "def read_mine(root, skipped):\n"
        "    yield from read_youtube_faces(root, skipped)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "8 clips with 24 frames" in prepare(source="my_readers.read_mine").out
