"""What an index of tracks stores and returns."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from facereel.video.content import is_gone
from facereel.video.track_file import ENDING


class NewTrack(NamedTuple):
    """A track to be added."""

    number: int
    """In its video, from 0."""
    start_s: float | None
    end_s: float | None
    """First and last time its face is seen, in seconds; None where a data set has frames without times."""
    person: str | None
    """Name, if known."""
    code: Tensor
    """(K,) bool."""
    thumbnail: bytes
    """JPEG."""


class Track(NamedTuple):
    """A track in the index."""

    id: int
    video: str
    """Path of the file, or the name of a data set's source."""
    number: int
    """In its video, from 0."""
    start_s: float | None
    end_s: float | None
    person: str | None
    cluster: int | None
    """The group that `make_groups` put it in."""
    date: float | None
    """When the file was last changed, in seconds since 1970."""
    source: str
    """The track file or the prepared data set that it was read from."""
    thumbnail: Path
    content: str | None = None
    """Hash of the file, as `content_of` makes it; None for a data set's."""

    @property
    def is_absent(self) -> bool:
        """Whether its video is a file that is gone, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.video)


class VideoRecord(NamedTuple):
    """What the index records of a video."""

    path: str
    """Of the file, or the name of a data set's source."""
    fingerprint: str
    """Tells whether its tracks would be the same if they were read again."""
    date: float | None
    """When the file was last changed, in seconds since 1970."""
    source: str
    """The track file or the prepared data set that its crops are in."""
    content: str | None = None
    """Hash of the file, as `content_of` makes it; None for a data set's."""

    @property
    def is_absent(self) -> bool:
        """Whether it is a file that is gone, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.path)


class Match(NamedTuple):
    """A track that was found."""

    track: Track
    distance: float


class Within(NamedTuple):
    """Which videos to search; None does not restrict."""

    folder: str | None = None
    """Videos below this folder."""
    since: float | None = None
    until: float | None = None
    """Videos with a date from one to the other, inclusive, in seconds since 1970."""


def is_video_file(source: str) -> bool:
    """Whether tracks read from this source are of a video file, and not of a data set's."""
    return source.endswith(ENDING)
