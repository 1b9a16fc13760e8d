"""The second and third network of MTCNN, which find landmarks in a box that another detector found."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# Side of the networks' inputs in pixels.
_RNET_SIDE, _ONET_SIDE = 24, 48
# Normalization of their inputs.
_MEAN, _SCALE = 127.5, 1 / 128

Square = tuple[float, float, float]


class Landmarks(NamedTuple):
    """The landmarks of a face."""

    points: tuple[float, ...]
    """x and y in pixels of both eyes, the nose, both mouth corners; in each pair the left one is first."""
    score: float
    """The lower one of the two networks' confidences that this is a face, in 0..1."""


class LandmarkNetworks:
    """RNet improves a box, and ONet finds the landmarks in it, as in MTCNN (Zhang, Zhang, Li and Qiao 2016).

    Not thread-safe.

    Args:
        rnet: ONNX file of the second network.
        onet: ONNX file of the third network.
    """

    def __init__(self, rnet: Path, onet: Path) -> None:
        self._rnet, self._onet = (cv2.dnn.readNetFromONNX(str(path)) for path in (rnet, onet))

    def find(self, image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Landmarks | None:
        """Find the landmarks of a face.

        Args:
            image: (H, W, 3) BGR uint8.
            box: left, top, width and height in pixels.

        Returns:
            The landmarks; None if the box is outside the image.
        """
        left, top, width, height = box
        first = _square(left, top, left + width, top + height)
        seen = _crop_input(image, first, _RNET_SIDE)
        if seen is None:
            return None
        x, y, side = first
        shift, chances = _run(self._rnet, seen, ("dense_2", "softmax_1"))
        second = _square(x + shift[0] * side, y + shift[1] * side, x + (1 + shift[2]) * side, y + (1 + shift[3]) * side)
        seen = _crop_input(image, second, _ONET_SIDE)
        if seen is None:
            return None
        x, y, side = second
        places, final = _run(self._onet, seen, ("dense_6", "softmax_2"))
        points = np.stack([x + places[:5] * side, y + places[5:] * side], axis=1)
        return Landmarks(tuple(points.ravel().tolist()), float(min(chances[1], final[1])))


def _square(left: float, top: float, right: float, bottom: float) -> Square:
    """Return left, top and side in whole pixels of the square around a box's center, as large as its longer side."""
    side = max(right - left, bottom - top)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    return float(np.trunc(x)), float(np.trunc(y)), float(max(1, round(side)))


def _crop_input(image: NDArray[np.uint8], square: Square, size: int) -> NDArray[np.float32] | None:
    """Return a square part of an image as a network's input; outside the image it is black. None if all of it is."""
    x, y, side = (int(value) for value in square)
    left, top = max(0, x), max(0, y)
    right, bottom = min(image.shape[1], x + side), min(image.shape[0], y + side)
    if right <= left or bottom <= top:
        return None
    part = image[top:bottom, left:right]
    part = cv2.copyMakeBorder(part, top - y, y + side - bottom, left - x, x + side - right, cv2.BORDER_CONSTANT)
    part = cv2.cvtColor(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    # The networks were converted from Matlab: width comes before height.
    return (part.transpose(1, 0, 2).astype(np.float32) - _MEAN) * _SCALE


def _run(network: Any, part: NDArray[np.float32], outputs: tuple[str, ...]) -> list[NDArray[np.float32]]:
    network.setInput(np.ascontiguousarray(part)[None])
    return [output[0] for output in network.forward(outputs)]
