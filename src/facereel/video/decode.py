"""Picture and video files to pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from facereel.errors import UserError
from facereel.video.detector import Image

# A few kilobytes may decode to gigabytes. The largest cameras make 150 million pixels.
_MOST_PIXELS = 200_000_000

# A header that announces more than a month is wrong.
_LONGEST_S = 31 * 24 * 3600.0


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


class Frame(NamedTuple):
    """A frame of a video."""

    seconds: float
    """From the start of the video, by its own clock."""
    image: Image
    """(H, W, 3) BGR uint8, upright."""


def frames_of(file: str, positions: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """Decode some frames of a video file.

    In sequence, since seeking is not exact in every container.

    Args:
        file: a video file.
        positions: frame numbers, rising.

    Yields:
        The place in `positions`, and the frame; frames that do not decode are left out.
    """
    capture = cv2.VideoCapture(file)
    place, seconds = 0, 0.0
    try:
        for number in range(positions[-1] + 1):
            if not capture.grab():
                return
            seconds = max(seconds, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            if number == positions[place]:
                ok, image = capture.retrieve()
                if ok:
                    yield place, Frame(seconds, image)
                place += 1
    finally:
        capture.release()


class Video:
    """A video file, decoded in sequence: seeking is not exact in every container.

    Args:
        file: anything that FFmpeg reads.

    Raises:
        UserError: if it does not open or holds no frame.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise UserError(f"{file}: there is no such file")
        if _is_text(self.file):
            raise UserError(f"{file}: a text file, not a video")
        # Turned upright, as the camera wrote: OpenCV does that unless told otherwise.
        capture = cv2.VideoCapture(str(self.file), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened() or not capture.grab():
                empty = not self.file.stat().st_size
                raise UserError(f"{file}: {'a file of no bytes' if empty else 'not a video that can be decoded'}")
            fps, n_frames = (capture.get(what) for what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        known = fps > 0 and 0 < n_frames / fps < _LONGEST_S
        self.announced_s: float | None = n_frames / fps if known else None
        """Its length by its header; None if that is silent."""
        self.seen_s = 0.0
        """How far `sample` has come."""

    def sample(self, rate: float) -> Iterator[Frame]:
        """Decode, and yield the first frame in every so-manieth of a second.

        Args:
            rate: frames a second at most.
        """
        capture = cv2.VideoCapture(str(self.file), cv2.CAP_FFMPEG)
        due = 0
        try:
            while capture.grab():
                # A clock that goes back, as some cameras' do, would bring a frame into two tracks.
                seconds = max(self.seen_s, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                self.seen_s = seconds
                # The clock ticks in whole units: what is due now may be a rounding early.
                if seconds * rate + 1e-3 < due:
                    continue
                ok, image = capture.retrieve()
                if ok:
                    due = int(seconds * rate + 1e-3) + 1
                    yield Frame(seconds, image)
        finally:
            capture.release()

    @property
    def is_cut_short(self) -> bool:
        """Whether a good part of what the header announced was not there; to be asked after `sample`."""
        return self.announced_s is not None and self.seen_s < self.announced_s - max(1.0, 0.02 * self.announced_s)


def _is_text(file: Path) -> bool:
    """Whether a file starts without any of the bytes that no text has and every container does.

    FFmpeg opens playlists, which are text and name other files: a stranger's must not have those read.
    """
    with file.open("rb") as opened:
        head = opened.read(400)
    return bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)
