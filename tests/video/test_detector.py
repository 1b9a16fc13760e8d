from pathlib import Path

import cv2
import numpy as np
import pytest

from facereel.errors import UserError
from facereel.video import Face, make_detector
from facereel.video import detector as module
from facereel.video.decode import frames_of
from facereel.video.detector import find_face, find_faces, overlap
from facereel.video.image_file import read_picture


@pytest.fixture(scope="module", params=["mtcnn", "yunet"])
def detector(request, shared):
    return make_detector("mtcnn" if request.param == "mtcnn" else str(shared / "weights" / "yunet.onnx"))


@pytest.fixture(scope="module")
def reference(shared):
    """Stills, and where their landmarks are: by another program's run of YuNet."""
    content = np.load(shared / "weights" / "mobilefacenet_reference.npz")
    images = [read_picture(shared / "data" / "lfw" / str(path)) for path in content["path"]]
    return list(zip(images, content["landmarks"].reshape(-1, 10), strict=True))


def test_landmarks_are_where_they_are_known_to_be(detector, reference):
    for image, landmarks in reference:
        face = find_face(detector, image, None)
        eyes = np.hypot(*(landmarks[2:4] - landmarks[:2]))
        assert np.abs(np.array(face.landmarks) - landmarks).max() < 0.2 * eyes
        assert 0.7 <= face.score <= 1.001


def test_a_box_chooses_among_faces(detector, reference):
    both = np.hstack([reference[0][0], reference[2][0]])
    width = reference[0][0].shape[1]
    assert len(find_faces(detector, both)) >= 2
    for i, x in ((0, 0), (2, width)):
        face = find_face(detector, both, (x + 70, 70, 110, 110))
        moved = reference[i][1].reshape(5, 2) + np.array([x, 0])
        assert np.abs(np.array(face.landmarks).reshape(5, 2) - moved).max() < 12
    assert find_face(detector, both, (0, 0, 30, 30)) is None
    assert find_face(detector, both, (5000, 0, 30, 30)) is None


class Told:
    """A detector that is told what to find, in pixels of what it is shown."""

    def __init__(self, *boxes):
        self.faces = [Face(box, (box[0], box[1]) * 5, score) for box, score in boxes]

    def detect(self, image, min_size=20):
        self.shown = image.shape
        return self.faces


def test_of_several_faces_the_one_that_covers_the_box_is_taken():
    image = np.zeros((400, 400, 3), np.uint8)
    # Around the box 248 pixels are shown at a scale of 1: the picture's pixels from 32 on.
    detector = Told(((67, 67, 112, 112), 0.8), ((0, 0, 100, 100), 0.99))
    face = find_face(detector, image, (100, 100, 112, 112))
    assert detector.shown == (248, 248, 3)
    assert face.score == 0.8
    assert face.box == (99, 99, 112, 112)
    assert face.landmarks[:2] == pytest.approx(face.box[:2])
    assert find_face(Told(((0, 0, 50, 50), 0.99)), image, (100, 100, 112, 112)) is None
    assert find_face(Told(), image, (100, 100, 112, 112)) is None


def test_without_a_box_the_largest_face_is_taken_and_put_back_to_scale():
    detector = Told(((10, 20, 30, 30), 0.99), ((100, 50, 60, 60), 0.8))
    face = find_face(detector, np.zeros((480, 960, 3), np.uint8), None)
    assert detector.shown == (240, 480, 3)
    assert face.box == (200, 100, 120, 120)


def test_nothing_is_found_where_there_is_nobody(detector):
    for shape in ((200, 300, 3), (5, 5, 3), (13, 400, 3)):
        assert find_faces(detector, np.full(shape, 90, np.uint8)) == []


def test_other_networks_in_the_package_are_not_taken(monkeypatch):
    monkeypatch.setitem(module._MTCNN_FILES, "onet.onnx", "0" * 64)
    with pytest.raises(UserError, match=r"onet\.onnx has the sha256 d80f19b44f72"):
        make_detector("mtcnn")


def test_what_is_no_detector_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file; give a YuNet ONNX file, or mtcnn"):
        make_detector("retina")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.onnx: not a YuNet ONNX file"):
        make_detector(str(tmp_path / "x.onnx"))


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (1, 1, 2, 2)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (2, 0, 2, 2)) == 0


def test_frames_are_decoded_at_their_positions(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for i in range(10):
        writer.write(np.full((64, 64, 3), 20 * i + 20, np.uint8))
    writer.release()
    frames = [
        (place, round(frame.seconds, 3), round(float(frame.image.mean()) / 20) - 1)
        for place, frame in frames_of(str(tmp_path / "film.mp4"), [1, 4, 9, 12])
    ]
    assert frames == [(0, 0.1, 1), (1, 0.4, 4), (2, 0.9, 9)]
    assert list(frames_of(str(Path(tmp_path) / "absent.mp4"), [0])) == []
