"""A contact sheet: faces in lines with a name each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.files import write_beside

# Pixels: a crop, what surrounds it, the column of names, the line that explains the colours.
_SIDE, _EDGE, _NAMES, _LEGEND = 96, 4, 190, 36
_STEP = _SIDE + 2 * _EDGE


class Line(NamedTuple):
    """A line of the sheet."""

    name: str
    """Of which 48 characters are written, those outside ASCII as ?."""
    pictures: Sequence[NDArray[np.uint8]]
    """(S, S, 3) BGR each."""
    green: Sequence[bool]
    """Of each picture, whether its frame is green; else it is orange."""


def draw_sheet(lines: Sequence[Line], green: str, orange: str) -> NDArray[np.uint8]:
    """Draw lines of faces.

    Args:
        lines: at least one.
        green: what a green frame means.
        orange: what an orange one does.

    Returns:
        (H, W, 3) BGR.
    """
    n_columns = max(4, *(len(line.pictures) for line in lines))
    height, width = len(lines) * _STEP + _LEGEND, _NAMES + n_columns * _STEP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        top = i * _STEP + _EDGE
        name = line.name.encode("ascii", "replace").decode()
        for k, part in enumerate((name[:24], name[24:48])):
            _write(sheet, part, 6, top + 46 + 20 * k)
        for j, (picture, is_green) in enumerate(zip(line.pictures, line.green, strict=True)):
            left = _NAMES + j * _STEP
            _frame(sheet, left, top, _SIDE, is_green)
            resized = cv2.resize(np.ascontiguousarray(picture), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
            sheet[top : top + _SIDE, left : left + _SIDE] = resized
    for left, text, is_green in ((6, green, True), (206, orange, False)):
        _frame(sheet, left + 2, height - 24, 12, is_green)
        _write(sheet, text, left + 24, height - 13)
    return sheet


def save_sheet(sheet: NDArray[np.uint8], path: Path) -> None:
    """Write a picture; it appears whole or not at all.

    Raises:
        UserError: if the path's ending is no kind of picture.
    """
    with write_beside(path) as beside:
        try:
            _, content = cv2.imencode(path.suffix, sheet)
        except cv2.error as error:
            raise UserError(
                f"{path}: no picture is written under this name; .jpg and .png are kinds of picture"
            ) from error
        beside.write_bytes(content.tobytes())


def _frame(sheet: NDArray[np.uint8], left: int, top: int, side: int, green: bool) -> None:
    colour = (115, 158, 0) if green else (0, 94, 213)  # Okabe and Ito's green and vermilion, in BGR
    cv2.rectangle(sheet, (left - 2, top - 2), (left + side + 1, top + side + 1), colour, 2)


def _write(sheet: NDArray[np.uint8], text: str, left: int, base: int) -> None:
    cv2.putText(sheet, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 36, 28), 1, cv2.LINE_AA)
