"""YuNet in PyTorch finds what OpenCV's FaceDetectorYN does."""

import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectors import needs_yunet
from drawn_people import draw_background, draw_image
from films import make_film

from facereel.storage.untrusted import find_weights
from facereel.video import TrackSettings, Video, detector, find_tracks, make_detector
from facereel.video.yunet_network import YuNetNetwork, _dequantize

pytestmark = needs_yunet


@pytest.fixture(scope="module")
def weights():
    return find_weights(
        detector.YUNET_PACKAGE, detector._YUNET_FILE, detector._YUNET_SHA256, detector.YUNET_PACKAGE, "a test"
    )


@pytest.mark.parametrize(("width", "height"), [(448, 256), (320, 240), (333, 207), (48, 40)])
def test_faces_are_those_of_opencv(weights, width, height):
    images = [
        draw_image("Anna", width=width, height=height),
        draw_background(width, height),
        draw_image("Bert", "Cleo", width=width, height=height, seed=3),
    ]
    network = cv2.FaceDetectorYN.create(str(weights), "", (width, height), 0.3)
    found = YuNetNetwork(weights, "cpu").find(images, 0.3)
    n_faces = 0
    for image, rows in zip(images, found, strict=True):
        _, expected = network.detect(image)
        expected = np.zeros((0, 15), np.float32) if expected is None else expected
        n_faces += len(expected)
        assert rows.shape == expected.shape
        assert np.allclose(rows[rows[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=0, atol=1e-2)
    assert n_faces >= 3 or width < 100


def test_no_face_in_any_image(weights):
    (rows,) = YuNetNetwork(weights, "cpu").find([np.zeros((64, 64, 3), np.uint8)], 0.3)
    assert rows.shape == (0, 15)


def test_scales_of_blocks_and_of_a_whole_weight():
    x = np.array([[1, 2, 3, 4, 5]], np.int8)
    blocks = np.array([[10.0, 100.0, 1000.0]], np.float32)
    assert _dequantize({"axis": 1, "block_size": 2}, x, blocks).tolist() == [[10, 20, 300, 400, 5000]]
    zero = np.array([[1, 0, 0]], np.int8)
    assert _dequantize({"axis": 1, "block_size": 2}, x, blocks, zero).tolist() == [[0, 10, 300, 400, 5000]]
    assert _dequantize({}, x, np.float32(2) * np.ones(()), np.int8(1) * np.ones((), np.int8)).tolist() == [
        [0, 2, 4, 6, 8]
    ]


def test_tracks_are_those_of_opencv(weights, tmp_path, monkeypatch):
    """As on a GPU: several frames at once, and MTCNN's networks for doubtful faces and landmarks."""
    path = make_film(tmp_path / "film.mp4", "Anna", "Bert", seconds=4)
    expected = list(find_tracks(Video(path), TrackSettings(detector="yunet")))

    def make(name, device="cpu"):
        made: Any = make_detector(name)
        made._yunet = detector._YuNetOnDevice(weights, detector._YUNET_FAINT, torch.device("cpu"))
        return made

    monkeypatch.setattr(sys.modules[find_tracks.__module__], "make_detector", make)
    found = list(find_tracks(Video(path), TrackSettings(detector="yunet"), 2, device="meta"))
    assert len(found) == len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.times == b.times
        assert np.allclose(a.boxes, b.boxes, rtol=0, atol=1e-2)
        assert all(cv2.absdiff(x.image, y.image).max() <= 2 for x, y in zip(a.crops, b.crops, strict=True))
