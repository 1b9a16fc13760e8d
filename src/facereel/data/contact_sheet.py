"""A contact sheet: rows of faces, each with a name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.storage.files import atomic_write

# In pixels: side of a crop, border around it, width of the names, height of the legend.
_SIDE, _BORDER, _NAMES, _LEGEND = 96, 4, 190, 36
_STEP = _SIDE + 2 * _BORDER
# Okabe and Ito's green and vermilion, in BGR.
_GREEN, _ORANGE = (115, 158, 0), (0, 94, 213)


class Line(NamedTuple):
    """One row of the sheet."""

    name: str
    """The first 48 characters are drawn, those outside ASCII as ?."""
    images: Sequence[NDArray[np.uint8]]
    """(S, S, 3) BGR each."""
    green: Sequence[bool]
    """Whether each image's frame is green; else it is orange."""


def draw_sheet(lines: Sequence[Line], green: str, orange: str) -> NDArray[np.uint8]:
    """Draw rows of faces.

    Args:
        lines: rows of the sheet, at least one.
        green: legend of a green frame.
        orange: legend of an orange frame.

    Returns:
        (H, W, 3) BGR uint8.
    """
    n_columns = max(4, *(len(line.images) for line in lines))
    height, width = len(lines) * _STEP + _LEGEND, _NAMES + n_columns * _STEP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        top = i * _STEP + _BORDER
        name = line.name.encode("ascii", "replace").decode()
        for k, part in enumerate((name[:24], name[24:48])):
            _write(sheet, part, 6, top + 46 + 20 * k)
        for j, (image, is_green) in enumerate(zip(line.images, line.green, strict=True)):
            left = _NAMES + j * _STEP
            _frame(sheet, left, top, _SIDE, is_green)
            resized = cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
            sheet[top : top + _SIDE, left : left + _SIDE] = resized
    for left, text, is_green in ((6, green, True), (206, orange, False)):
        _frame(sheet, left + 2, height - 24, 12, is_green)
        _write(sheet, text, left + 24, height - 13)
    return sheet


def save_sheet(sheet: NDArray[np.uint8], path: Path) -> None:
    """Write an image atomically.

    Args:
        sheet: (H, W, 3) BGR uint8.
        path: file to write; its extension selects the image format.

    Raises:
        UserError: if OpenCV cannot write this image format.
    """
    try:
        _, content = cv2.imencode(path.suffix, sheet)
    except cv2.error as error:
        raise UserError(f"{path}: cannot write an image with this extension; use .jpg or .png") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _frame(sheet: NDArray[np.uint8], left: int, top: int, side: int, is_green: bool) -> None:
    color = _GREEN if is_green else _ORANGE
    cv2.rectangle(sheet, (left - 2, top - 2), (left + side + 1, top + side + 1), color, 2)


def _write(sheet: NDArray[np.uint8], text: str, left: int, base: int) -> None:
    cv2.putText(sheet, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 36, 28), 1, cv2.LINE_AA)
