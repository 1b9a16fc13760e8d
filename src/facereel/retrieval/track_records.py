"""Records that an index of tracks stores and returns."""

import math
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from facereel.video.content import is_gone
from facereel.video.track_file import ENDING

# Fewer than 5 frames that `ingest` samples by default. In our films, other people were likely in such tracks only.
BRIEF_S = 0.7


class NewTrack(NamedTuple):
    """A track to add."""

    number: int
    """Number of the track in its video, from 0."""
    start_s: float | None
    end_s: float | None
    """First and last time at which the face is visible, in seconds; None for data sets without times."""
    person: str | None
    """Name of the person, if known."""
    code: Tensor
    """(K,) bool."""
    thumbnail: bytes
    """A JPEG file."""
    feature: Tensor | None = None
    """(D,) float; its length does not matter. Stored only in an index with features."""


class Track(NamedTuple):
    """A track in the index."""

    id: int
    video: str
    """Path of the video file, or name of a source in a data set."""
    number: int
    """Number of the track in its video, from 0."""
    start_s: float | None
    end_s: float | None
    person: str | None
    cluster: int | None
    """Number of the group from `make_groups`."""
    date: float | None
    """Modification time of the video file, in seconds since 1970."""
    source: str
    """Path of the track file or prepared data set with the track."""
    thumbnail: Path
    content: str | None = None
    """Fingerprint of the video file from `content_of`; None for data sets."""

    @property
    def is_absent(self) -> bool:
        """Whether the video is a file that is missing, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.video)


class VideoRecord(NamedTuple):
    """The metadata of a video in the index."""

    path: str
    """Path of the video file, or name of a source in a data set."""
    fingerprint: str
    """Hash of everything that the tracks depend on; tracks with an equal hash need not be read again."""
    date: float | None
    """Modification time of the video file, in seconds since 1970."""
    source: str
    """Path of the track file or prepared data set with the crops."""
    content: str | None = None
    """Fingerprint of the video file from `content_of`; None for data sets."""

    @property
    def is_absent(self) -> bool:
        """Whether the video is a file that is missing, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.path)


class Match(NamedTuple):
    """A track found by a search, with its distance."""

    track: Track
    distance: float
    probability: float | None = None
    """Probability, in 0..1, that the track shows the searched person; None if the model was not calibrated."""
    is_too_poor: bool = False
    """Whether the crops of the track are too poor to tell who it is."""

    @property
    def verdict(self) -> str | None:
        """The probability in a word: likely from 1/2, maybe from 1/20, else unlikely; None without a probability.

        A track of less than `BRIEF_S` seconds is at most maybe: it has few frames, often small or blurred ones. So is a
        track whose crops are too poor.
        """
        if self.probability is None:
            return None
        if self.probability < 0.05:
            return "unlikely"
        start_s, end_s = self.track.start_s, self.track.end_s
        is_brief = start_s is not None and end_s is not None and end_s - start_s < BRIEF_S
        return "likely" if self.probability >= 0.5 and not is_brief and not self.is_too_poor else "maybe"


class Within(NamedTuple):
    """Videos to search in; None means no restriction."""

    folder: str | None = None
    """Search only videos below this folder."""
    since: float | None = None
    until: float | None = None
    """Search only videos with a date in this range, inclusive, in seconds since 1970."""

    def includes(self, track: Track) -> bool:
        """Return whether a track is in one of the videos."""
        if self.folder is not None and not track.video.startswith(f"{self.folder.rstrip('/')}/"):
            return False
        if self.since is None and self.until is None:
            return True
        lowest = -math.inf if self.since is None else self.since
        highest = math.inf if self.until is None else self.until
        return track.date is not None and lowest <= track.date <= highest

    @classmethod
    def days(cls, folder: str | None, first: date | None, last: date | None) -> "Within":
        """Return the videos below a folder with a date between two days of the local time, both inclusive.

        Args:
            folder: the folder, or None for all.
            first: the first day, or None for no limit.
            last: the last day, or None for no limit.
        """
        return cls(
            folder,
            None if first is None else _timestamp(datetime.combine(first, time.min)),
            None if last is None else _timestamp(datetime.combine(last, time.max)),
        )


def _timestamp(moment: datetime) -> float:
    try:
        return moment.timestamp()
    except (OverflowError, ValueError):  # in local time, the first and last days have hours of the years 0 and 10000
        return moment.replace(tzinfo=UTC).timestamp()


def is_video_file(source: str) -> bool:
    """Return whether a source is the track file of a video, not a data set."""
    return source.endswith(ENDING)
