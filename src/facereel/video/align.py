"""A face to its standard place, by five landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Where the eyes, the nose and the mouth's corners stand in an upright crop of 112 x 112 pixels: the places that the
# usual face encoders, MobileFaceNet among them, were trained with.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)], np.float32
)
TEMPLATE_SIZE = 112

# The template's side over a face box's longer side, so that one margin means the same for an aligned face as for one
# cut by its box. Median on real faces: 1.22 of LFW's boxes (the middle 1 / 2.2 of a picture), 1.30 of the boxes of 615
# frames of YouTube Faces, 1.00 to 1.09 of the detectors' own.
TEMPLATE_MARGIN = 1.2

# A face is at most so many times as large as the picture it is in, and has at least so many pixels along a side:
# other landmarks are a slip, of which no crop, or one of gigabytes, would be made.
_LARGEST, _SMALLEST = 2.0, 1.0


def align_face(
    image: NDArray[np.uint8], landmarks: Sequence[float], size: int, margin: float = TEMPLATE_MARGIN
) -> NDArray[np.uint8] | None:
    """Turn, scale and cut a picture so that a face's landmarks come nearest their standard places.

    The similarity is the least median of squares over the points, which one bad point does not move. What lies
    outside the picture repeats its border.

    Args:
        image: (H, W, 3) uint8.
        landmarks: x and y of both eyes, the nose and both mouth corners, in pixels; of each pair the left one first.
        size: side of the result in pixels.
        margin: the crop's side over the face box's longer side; 1.2 is the standard crop of 112 x 112 pixels.

    Returns:
        (size, size, 3) uint8, or None if the points have no similarity with a face, or none in this picture.
    """
    points = np.asarray(landmarks, np.float32).reshape(5, 2)
    centre = TEMPLATE_SIZE / 2
    places = ((TEMPLATE - centre) * (TEMPLATE_MARGIN / margin) + centre) * (size / TEMPLATE_SIZE)
    matrix = None
    if np.isfinite(points).all():
        matrix, _ = cv2.estimateAffinePartial2D(points, places.astype(np.float32), method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all():
        return None
    height, width = image.shape[:2]
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    face = 0.0 if scale == 0 else size / scale / margin
    x, y = points.mean(axis=0)
    if not (_SMALLEST <= face <= _LARGEST * max(width, height) and 0 <= x < width and 0 <= y < height):
        return None
    # warpAffine takes single pixels and would alias where it shrinks: warp larger and average.
    finer = max(1, int(1 / scale))
    # A pixel's centre is at its half: scaling about the corner would shift the picture by up to half a pixel.
    matrix = matrix * finer
    matrix[:, 2] += (finer - 1) / 2
    crop = cv2.warpAffine(image, matrix, (size * finer, size * finer), borderMode=cv2.BORDER_REPLICATE)
    if finer > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crop
