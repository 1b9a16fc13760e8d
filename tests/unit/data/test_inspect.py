"""The inspect command: counts, and the contact sheet."""

import cv2
import numpy as np
import pytest
from commands import run
from drawn_faces import make_umdfaces_videos
from prepared_faces import NO_DETECTOR, make_trees

from facereel.data import open_prepared


def test_inspect_counts_prepared_and_original_data(trees, tmp_path, prepare, capsys):
    root = make_trees(tmp_path / "trees")
    prepare("--stills", root / "lfw", root=root / "ytf")
    (root / "ytf" / "frame_images_DB" / "Cy" / "1" / "1.10.jpg").unlink()
    assert run("inspect", tmp_path / "out", "--contact-sheet", tmp_path / "sheet.png") == 0
    output = capsys.readouterr().out
    for line in (
        r"people                4: 2 with clips and stills, 1 with clips only, 1 with stills only",
        r"source videos         8, 2 to 3 (median 3) a person",
        r"frames                24, 3 to 3 (median 3) a clip",
        r"stills                5, 1 to 2 (median 2) a person",
        r"with a box            24",
        r"with landmarks        0",
        r"1 x missing file",
    ):
        assert line in output
    assert "split train           15 frames" in output
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 4 * 96
    assert run("inspect", trees / "ytf", "--contact-sheet", tmp_path / "sheet2.png") == 0
    assert "frames                24, 3 to 3" in capsys.readouterr().out
    assert run("inspect", trees / "lfw", "--contact-sheet", tmp_path / "sheet3.png") == 0
    assert "stills                5" in capsys.readouterr().out
    assert run("inspect", tmp_path / "absent") == 2
    assert run("inspect", trees / "ytf", "--contact-sheet", tmp_path / "sheet.xyz") == 2
    assert "facereel: " in capsys.readouterr().err


def test_contact_sheet_marks_aligned_faces(tmp_path, prepare, capsys):
    prepare()
    make_umdfaces_videos(tmp_path / "umd", {"Ann": 2})
    assert run("prepare", "umdfaces_videos", tmp_path / "umd", tmp_path / "out2", *NO_DETECTOR) == 0
    shares = []
    for name in ("out", "out2"):
        assert run("inspect", tmp_path / name, "--contact-sheet", tmp_path / "sheet.png") == 0
        sheet = cv2.imread(str(tmp_path / "sheet.png"))[:-40]  # without the legend
        shares.append([(sheet == color).all(axis=2).mean() > 0.01 for color in ((115, 158, 0), (0, 94, 213))])
    assert shares == [[False, True], [True, False]]


def test_contact_sheet_shows_the_crops(tmp_path, prepare):
    prepare("--size", "96")
    assert run("inspect", tmp_path / "out", "--contact-sheet", tmp_path / "sheet.png") == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    crop = open_prepared(tmp_path / "out").face_set().images([0])[0].numpy().transpose(1, 2, 0)[:, :, ::-1]
    found = cv2.matchTemplate(sheet, np.ascontiguousarray(crop), cv2.TM_SQDIFF)
    assert found.min() < 1  # of 96 x 96 x 3 squared differences


@pytest.mark.slow
def test_shared_data_has_the_expected_counts(shared, tmp_path, capsys):
    """Compare with the counts in the folder's README; crop only two people, since all would take minutes."""
    data = shared / "data"
    assert run("inspect", data / "youtube_faces", "--contact-sheet", tmp_path / "a.png") == 0
    assert "people                258: 0 with clips and stills, 258 with clips only" in capsys.readouterr().out
    assert run("inspect", data / "lfw", "--contact-sheet", tmp_path / "b.png") == 0
    assert "stills                5127, 1 to 40" in capsys.readouterr().out
    weights = str(shared / "weights" / "yunet.onnx")
    arguments = ["--people", "12", "--stills", data / "lfw", "--detector", weights]
    assert run("prepare", "youtube_faces", data / "youtube_faces", tmp_path / "out", *arguments) == 0
    assert "12 people, 48 clips with 240 frames" in capsys.readouterr().out
    loaded = open_prepared(tmp_path / "out")
    assert (loaded.outcomes == 1).mean() > 0.99
