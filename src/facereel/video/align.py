"""Align a face to its standard position by five landmarks."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Positions of the eyes, the nose and the mouth's corners in an upright crop of 112 x 112 pixels. Most face encoders,
# MobileFaceNet among them, were trained with them.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)], np.float32
)
TEMPLATE_SIZE = 112

# The template's side over a face box's longer side, so that a margin means the same for an aligned face and for one
# cropped by its box. Median on real faces: 1.22 for LFW's boxes (the middle 1 / 2.2 of an image), 1.30 for the boxes of
# 615 frames of YouTube Faces, 1.00 to 1.09 for the detectors' boxes.
TEMPLATE_MARGIN = 1.2
# With a larger margin a face would fill less than a twentieth of its crop, which is a mistake.
LARGEST_MARGIN = 20.0

# A face is at most twice as large as its image, and has a side of at least 1 pixel. Other landmarks are wrong, and
# would give no crop or a crop of gigabytes.
_LARGEST, _SMALLEST = 2.0, 1.0


def align_face(
    image: NDArray[np.uint8], landmarks: Sequence[float], size: int, margin: float = TEMPLATE_MARGIN
) -> NDArray[np.uint8] | None:
    """Rotate, scale and crop an image to bring a face's landmarks close to their standard positions.

    The similarity transform minimizes the median of the squared distances, which one wrong point does not change.
    Outside the image its border is repeated.

    Args:
        image: (H, W, 3) uint8.
        landmarks: x and y of both eyes, the nose and both mouth corners, in pixels; in each pair the left one is first.
        size: side of the result in pixels.
        margin: ratio of the crop's side to the face box's longer side; 1.2 is the standard crop of 112 x 112 pixels.

    Returns:
        (size, size, 3) uint8, or None if the points cannot be a face in this image.
    """
    points = np.asarray(landmarks, np.float32).reshape(5, 2)
    center = TEMPLATE_SIZE / 2
    places = ((TEMPLATE - center) * (TEMPLATE_MARGIN / margin) + center) * (size / TEMPLATE_SIZE)
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
    # warpAffine samples single pixels and would alias when shrinking: warp larger, then average.
    finer = max(1, int(1 / scale))
    # Pixel centers are at half coordinates: scaling about the corner would shift the image by up to half a pixel.
    matrix = matrix * finer
    matrix[:, 2] += (finer - 1) / 2
    crop = cv2.warpAffine(image, matrix, (size * finer, size * finer), borderMode=cv2.BORDER_REPLICATE)
    if finer > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crop
