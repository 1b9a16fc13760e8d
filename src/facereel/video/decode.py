"""Video files to frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2

from facereel.errors import UserError
from facereel.video.detector import Image

# A header that announces more than a month is wrong.
_LONGEST_S = 31 * 24 * 3600.0


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
