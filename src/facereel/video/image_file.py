"""Picture files to pixels."""

from __future__ import annotations

import warnings
from enum import Enum
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from facereel.video.detector import Image

# A few kilobytes may decode to gigabytes. The largest cameras make 150 million pixels.
_MOST_PIXELS = 200_000_000


class Unreadable(Enum):
    """What is wrong with a picture file."""

    ABSENT = "picture that is absent"
    EMPTY = "picture file of no bytes"
    CUT_SHORT = "picture file that is cut short"
    UNREADABLE = "picture that does not decode"
    TOO_LARGE = "picture of more than 200 million pixels"
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
    return decode_picture(content.tobytes(), turn)


def decode_picture(data: bytes | None, turn: bool = True) -> Image | Unreadable:
    """Decode a picture file's content, as `read_picture`."""
    if not data:
        return Unreadable.EMPTY
    # Decoders fill up what is missing of a JPEG with grey. An end must follow the last scan's start (a thumbnail inside
    # the file has both too, but earlier).
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        return Unreadable.CUT_SHORT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(BytesIO(data)) as header:
                n_pixels = header.width * header.height
    except PIL.Image.DecompressionBombError:
        return Unreadable.TOO_LARGE
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on headers that are none
        return Unreadable.UNREADABLE
    if n_pixels > _MOST_PIXELS:
        return Unreadable.TOO_LARGE
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
        )
    except cv2.error:
        image = None
    return Unreadable.UNREADABLE if image is None else image
