"""The part of wider crops that a model takes: a margin, and a shift downwards."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from commands import run
from drawn_faces import draw_face, make_folder, write

from facereel import VideoHasher
from facereel.data import FaceSet, Row, Skipped, load_faces, read_folder
from facereel.data.crop_table import load_rows, outer_margin
from facereel.data.crops import CropSettings, crop_rows
from facereel.errors import UserError
from facereel.evaluation.evaluate import evaluate_model
from facereel.video.align import TEMPLATE, TEMPLATE_MARGIN, TEMPLATE_SIZE


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Images without sharp edges, each with a face of another size, and one that is a crop already."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    rows = []
    for i, scale in enumerate((0.8, 1.0, 1.3)):
        image = cv2.GaussianBlur(random.integers(0, 256, (400, 420, 3)).astype(np.uint8), (0, 0), 6)
        image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
        write(folder / f"{i}.png", image)
        points = tuple(float(v) for v in (TEMPLATE * scale + (130, 110)).ravel())
        rows.append((Row("a", "", str(i), str(i), str(folder / f"{i}.png"), landmarks=points), scale))
    return rows


def directly(rows, size, margin, vertical_offset):
    """Crop directly: moving the face's landmarks down moves the crop down."""
    moved = []
    for row, scale in rows:
        side = scale * TEMPLATE_SIZE / TEMPLATE_MARGIN * margin
        points = np.array(row.landmarks).reshape(5, 2) + np.array([0, vertical_offset * side])
        moved.append(row._replace(landmarks=tuple(points.ravel().tolist())))
    return torch.from_numpy(crop_rows(moved, CropSettings(size=size, margin=margin)).crops)


def difference(a, b):
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("wide", [0, 0.3])
@pytest.mark.parametrize(("margin", "vertical_offset"), [(1.05, 0.15), (1.2, 0.0), (1.2, -0.1), (1.0, 0.25)])
def test_window_of_a_wide_crop_equals_a_direct_crop(faces, margin, vertical_offset, wide):
    outer = outer_margin(margin, vertical_offset) + wide
    size = round(128 * outer / margin)
    loaded = load_rows((row for row, _ in faces), Skipped(), CropSettings(size, outer))
    images = loaded.face_set(margin=margin, vertical_offset=vertical_offset).images([0, 1, 2])
    side = images.shape[-1]
    assert images.shape == (3, 3, side, side)
    assert abs(side - 128) <= 1
    off = difference(images, directly(faces, side, margin, vertical_offset))
    # Positions are rounded to pixels; a shift by a tenth of a face would give a much larger difference.
    assert off < 0.3 * difference(
        directly(faces, side, margin, vertical_offset + 0.05), directly(faces, side, margin, vertical_offset)
    )
    assert off < 6


def test_window_is_a_square_within_the_crop():
    rows = [Row("a", "", "s", "k", "f")]
    for size in range(20, 260, 7):
        crops = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        for margin in (1.0, 1.05, 1.2):
            for vertical_offset in (-0.25, -0.1, 0.0, 0.1, 0.15, 0.333):
                central_fraction = margin / outer_margin(margin, vertical_offset)
                image = FaceSet(
                    ["a"], crops, rows, [], [], central_fraction=central_fraction, vertical_offset=vertical_offset
                ).images([0])
                assert image.shape == (1, 3, round(size * central_fraction), round(size * central_fraction))


def test_crops_narrower_than_the_model_needs_raise(faces):
    loaded = load_rows((row for row, _ in faces), Skipped(), CropSettings(64, 1.3))
    assert loaded.face_set(margin=1.3).central_fraction == 1
    assert loaded.face_set().central_fraction == 1
    assert loaded.face_set(margin=1.2, vertical_offset=0.04).central_fraction == pytest.approx(1.2 / 1.3)
    for margin, vertical_offset, needed in ((1.4, 0.0, 1.4), (1.2, 0.1, 1.44), (1.2, -0.1, 1.44)):
        with pytest.raises(UserError, match=f"margin of 1.3 but the model needs {needed}") as caught:
            loaded.face_set(margin=margin, vertical_offset=vertical_offset)
        assert "\n" not in str(caught.value)


def test_whole_images_are_never_cropped(faces, tmp_path):
    root = make_folder(tmp_path, n_people=2)
    rows = list(read_folder(root, Skipped()))
    loaded = load_rows(rows, Skipped(), CropSettings(60, 1.0))
    whole = loaded.face_set(margin=1.3, vertical_offset=0.2)  # though narrower
    assert whole.central_fraction == 1
    assert torch.equal(whole.images([0, 5]), load_faces(rows, Skipped(), size=60).images([0, 5]))
    # Not even next to images with a detected face.
    mixed = load_rows([*rows, faces[0][0]], Skipped(), CropSettings(60, 2.0)).face_set(margin=1.0)
    images = mixed.images([0, 5, len(rows)])
    small = load_rows([*rows, faces[0][0]], Skipped(), CropSettings(30, 1.0)).face_set(margin=1.0)
    expected = small.images([0, 5, len(rows)])
    assert images.shape == expected.shape == (3, 3, 30, 30)
    assert difference(images[:2], expected[:2]) < 6
    assert difference(images[2], expected[2]) < 6


def make_rows(root):
    """A data set with boxes away from the center of larger images."""
    random = np.random.default_rng(1)
    for person in range(4):
        for clip in range(3):
            lines = []
            for frame in range(2):
                image = np.full((160, 180, 3), 90, np.uint8)
                image[40:104, 60:124] = draw_face(person, random)
                image = cv2.GaussianBlur(image, (0, 0), 2)
                write(root / "frame_images_DB" / f"P{person}" / str(clip) / f"{clip}.{frame}.jpg", image)
                lines.append(f"P{person}\\{clip}\\{clip}.{frame}.jpg,0,92,72,64,64,0.0,1")
            table = root / "frame_images_DB" / f"P{person}.labeled_faces.txt"
            with table.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_evaluate_crops_raw_data_as_in_training(tmp_path, monkeypatch, capsys):
    root, folder, out = make_rows(tmp_path / "ytf"), tmp_path / "prepared", tmp_path / "run"
    options = ["--detector", "none", "--workers", "1", "--size", "120", "--margin", "2.0"]
    assert run("prepare", "youtube_faces", root, folder, *options) == 0
    model = ["preprocess.margin=1.2", "preprocess.vertical_offset=0.15", "preprocess.size=48", "data.size=100"]
    model += ["encoder.width=0.125", "pooling=mean", "debug=tiny", "head.n_bits=8", "stages.stage2=null"]
    seen = {}
    for name, target in (("trained", "facereel.training.pipeline"), ("evaluated", "facereel.evaluation.evaluate")):

        def recorded(hasher, faces, *arguments, real=evaluate_model, name=name, **options):
            seen[name] = faces
            return real(hasher, faces, *arguments, **options)

        monkeypatch.setattr(f"{target}.evaluate_model", recorded)
    assert run("train", "data=youtube_faces", f"data.manifest={folder}", *model, f"out={out}") == 0
    takes = VideoHasher.load(out).preprocess
    assert (takes.size, takes.margin, takes.vertical_offset) == (48, 1.2, 0.15)
    raw = ["data=youtube_faces", f"data.root={root}", "data.manifest=null", "data.detector=null"]
    assert run("evaluate", f"checkpoint={out}", *raw, f"out={tmp_path / 'raw'}") == 0
    trained, evaluated = seen["trained"], seen["evaluated"]
    assert evaluated.settings["margin"] == pytest.approx(1.2 * 1.3)
    assert trained.settings["margin"] == 2.0
    assert {c.key for c in trained.clips} == {c.key for c in evaluated.clips}
    higher = dataclasses.replace(trained, vertical_offset=0.0)
    off = {"evaluated": 0.0, "higher": 0.0}
    for clip in trained.clips:
        (other,) = (c for c in evaluated.clips if c.key == clip.key)
        expected = takes(trained.images(clip.rows) / 255)
        assert expected.shape == (2, 3, 48, 48)
        off["evaluated"] += difference(takes(evaluated.images(other.rows) / 255), expected)
        off["higher"] += difference(takes(higher.images(clip.rows) / 255), expected)
    assert off["evaluated"] < 0.25 * off["higher"]
    # And the other way: a prepared set that is too narrow, or too small.
    assert run("prepare", "youtube_faces", root, tmp_path / "narrow", *options[:-1], "1.5") == 0
    capsys.readouterr()
    narrow = ["data=youtube_faces", f"data.manifest={tmp_path / 'narrow'}"]
    assert run("evaluate", f"checkpoint={out}", *narrow) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the crops have a margin of 1.5 but the model needs 1.56" in error
    assert json.loads((out / "metrics.json").read_text())["protocol"] == "closed_set"
