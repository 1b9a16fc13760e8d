"""Picture files to face crops of one size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.data.manifest import Row

Image = NDArray[np.uint8]


def load_crops(
    rows: Sequence[Row], size: int, margin: float, still_crop: float, grey: bool, n_threads: int = 2
) -> tuple[Tensor, list[bool]]:
    """Decode every row's picture and cut out its face.

    Args:
        rows: of a manifest.
        size: side of a crop in pixels.
        margin: the crop's side over the face box's longer side.
        still_crop: the face box of a still without one, as a central share of its sides.
        grey: keep one channel, the luma.
        n_threads: decoded at once.

    Returns:
        (N, 1 or 3, size, size) uint8, RGB, and for each row whether it decoded; zeros where it did not.
    """
    crops = torch.zeros(len(rows), 1 if grey else 3, size, size, dtype=torch.uint8)
    decoded = [False] * len(rows)
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_file[row.file].append(i)

    def read(file: str) -> None:
        wanted = by_file[file]
        pictures = _read_video(file, {rows[i].position for i in wanted}) if rows[wanted[0]].position >= 0 else None
        still = None if pictures is not None else read_picture(file)
        for i in wanted:
            image = still if pictures is None else pictures.get(rows[i].position)
            if image is not None:
                box = rows[i].box or _central_box(image, rows[i].share if rows[i].clip else still_crop)
                crops[i] = torch.from_numpy(_to_channels(crop_face(image, box, size, margin), grey))
                decoded[i] = True

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(read, by_file))
    return crops, decoded


def read_picture(file: str | Path) -> Image | None:
    """Decode a picture file as (H, W, 3) BGR uint8; None if it cannot be read. Takes any file name."""
    try:
        content = np.fromfile(file, dtype=np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error):
        return None


def crop_face(image: Image, box: tuple[float, float, float, float], size: int, margin: float) -> Image:
    """Cut a square around a box and resize it; what lies outside the picture repeats its border.

    Args:
        image: (H, W, 3) uint8.
        box: left, top, width, height in pixels.
        size: side of the result in pixels.
        margin: the square's side over the box's longer side.

    Returns:
        (size, size, 3) uint8.
    """
    left, top, width, height = box
    side = max(1, round(max(width, height) * margin))
    x0, y0 = round(left + width / 2 - side / 2), round(top + height / 2 - side / 2)
    n_rows, n_columns = image.shape[:2]
    columns = np.clip(np.arange(x0, x0 + side), 0, n_columns - 1)
    lines = np.clip(np.arange(y0, y0 + side), 0, n_rows - 1)
    square = image[lines[:, None], columns[None, :]]
    # Averaging over areas does not alias when shrinking; it cannot enlarge.
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def _central_box(image: Image, share: float) -> tuple[float, float, float, float]:
    height, width = image.shape[:2]
    return width * (1 - share) / 2, height * (1 - share) / 2, width * share, height * share


def _to_channels(crop: Image, grey: bool) -> Image:
    if grey:
        return cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)[None]
    return np.ascontiguousarray(crop[:, :, ::-1].transpose(2, 0, 1))


def _read_video(file: str, positions: set[int]) -> dict[int, Image]:
    """Decode in sequence, since seeking is not exact in every container, and keep the wanted frames."""
    capture = cv2.VideoCapture(file)
    frames: dict[int, Image] = {}
    try:
        for i in range(max(positions) + 1):
            if not capture.grab():
                break
            if i in positions:
                ok, frame = capture.retrieve()
                if ok:
                    frames[i] = frame
    finally:
        capture.release()
    return frames
