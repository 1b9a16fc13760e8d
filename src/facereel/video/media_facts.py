"""Facts of a video file that editing programs need: frame rate, start timecode and duration."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from facereel.video.decode import USUAL_RATE, open_video

# Rates of film and television. Headers round them: 29.97 is 30000/1001.
_STANDARD = (
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120)),
    *(Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 100, 120)),
)
# 24 and 24000/1001 differ by 1 in 1001; 23.98 and 24000/1001 by less than 1 in 5000.
_NEAR = Fraction(1, 4000)
_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
# Of 30000/1001 frames per second, timecode with drop frame skips the first two numbers of each minute but every tenth.
_DROPPED = 2


@dataclass(frozen=True)
class MediaFacts:
    """Facts of a video file.

    Args:
        rate: frames per second.
        start_frame: number of the file's first frame in its timecode; 0 if the file has no timecode.
        drop_frame: whether the timecode drops frame numbers.
        duration_s: duration in seconds; None if it is unknown.
    """

    rate: Fraction
    start_frame: int = 0
    drop_frame: bool = False
    duration_s: float | None = None

    @property
    def nominal_rate(self) -> int:
        """Frame numbers per second of timecode: 30 of 30000/1001."""
        return max(1, round(self.rate))


def read_media_facts(file: str | Path) -> MediaFacts:
    """Read the facts of a video file from its headers.

    A variable rate becomes the average rate. Rates near a rate of film or television are rounded to it, and a file
    without a rate counts as one of 25 frames per second. The timecode is that of the video, of its timecode track or
    of the file; one that is invalid counts as missing.

    Args:
        file: the video file.

    Returns:
        The facts.

    Raises:
        UserError: if the file is missing or not a video.
    """
    with open_video(Path(file)) as (container, stream):
        rate = _standard(Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE))
        duration_s = container.duration / av.time_base if container.duration else None
        start_frame, drop_frame = parse_timecode(_timecode(container, stream), rate)
        return MediaFacts(rate, start_frame, drop_frame, duration_s)


def parse_timecode(timecode: str, rate: Fraction) -> tuple[int, bool]:
    """Convert a timecode to the number of its frame.

    Args:
        timecode: "01:00:00:00"; with a semicolon or dot before the frames, frame numbers are dropped. Only rates of
            30000/1001 and 60000/1001 drop any.
        rate: frames per second.

    Returns:
        The number of the frame, and whether frame numbers are dropped; 0 and False if the timecode is invalid.

    Examples:
        >>> parse_timecode("01:00:00:00", Fraction(25))
        (90000, False)
        >>> parse_timecode("01:00:00;00", Fraction(30000, 1001))
        (107892, True)
    """
    found = _TIMECODE.fullmatch(timecode.strip())
    if found is None:
        return 0, False
    hours, minutes, seconds, frames = (int(found[group]) for group in (1, 2, 3, 5))
    nominal = max(1, round(rate))
    if minutes > 59 or seconds > 59 or frames >= nominal:
        return 0, False
    number = (3600 * hours + 60 * minutes + seconds) * nominal + frames
    drop_frame = found[4] != ":" and rate in (Fraction(30000, 1001), Fraction(60000, 1001))
    if drop_frame:
        minutes += 60 * hours
        number -= _DROPPED * nominal // 30 * (minutes - minutes // 10)
    return number, drop_frame


def _standard(rate: Fraction) -> Fraction:
    nearest = min(_STANDARD, key=lambda standard: abs(standard - rate))
    return nearest if abs(nearest - rate) <= _NEAR * nearest else rate.limit_denominator(1001)


def _timecode(container: InputContainer, stream: VideoStream) -> str:
    """Return the timecode in the metadata of the video, another stream or the file, or ""."""
    for metadata in (stream.metadata, *(one.metadata for one in container.streams), container.metadata):
        for key, value in metadata.items():
            if key.lower() == "timecode":
                return value
    return ""
