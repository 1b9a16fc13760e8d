"""Picture and video files to pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from facereel.video.detector import Image


class Unreadable(Enum):
    """What is wrong with a picture file."""

    ABSENT = "picture that is absent"
    EMPTY = "picture file of no bytes"
    CUT_SHORT = "picture file that is cut short"
    UNREADABLE = "picture that does not decode"
    REFUSED = "file that cannot be read"


def read_picture(file: str | Path, turn: bool = True) -> Image | Unreadable:
    """Decode a picture file.

    Args:
        file: of any name.
        turn: as its EXIF orientation says.

    Returns:
        (H, W, 3) BGR uint8, or what is wrong with the file.
    """
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except FileNotFoundError:
        return Unreadable.ABSENT
    except OSError:
        return Unreadable.REFUSED
    if not content.size:
        return Unreadable.EMPTY
    data = content.tobytes()
    # Decoders fill up what is missing of a JPEG with grey. An end must follow the last scan's start (a thumbnail inside
    # the file has both too, but earlier).
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        return Unreadable.CUT_SHORT
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error:
        image = None
    return Unreadable.UNREADABLE if image is None else image


def frames_of(file: str, positions: Sequence[int]) -> Iterator[tuple[int, Image]]:
    """Decode some frames of a video file.

    In sequence, since seeking is not exact in every container.

    Args:
        file: a video file.
        positions: frame numbers, rising.

    Yields:
        The place in `positions`, and the frame (H, W, 3) BGR uint8; frames that do not decode are left out.
    """
    capture = cv2.VideoCapture(file)
    place = 0
    try:
        for number in range(positions[-1] + 1):
            if not capture.grab():
                return
            if number == positions[place]:
                ok, frame = capture.retrieve()
                if ok:
                    yield place, frame
                place += 1
    finally:
        capture.release()
