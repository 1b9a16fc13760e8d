"""Write track files of many videos. Existing tracks are reused, and a bad file does not stop the others."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import torch

from facereel.errors import UserError
from facereel.parallel.executor import LOST, Engine, local
from facereel.video.content import is_gone
from facereel.video.decode import Video
from facereel.video.find_tracks import TrackSettings, find_tracks
from facereel.video.track_file import track_path, write_tracks
from facereel.video.track_folder import CarriedOver, carry_over, claimed, copies_among, has_tracks, remove_moved


@dataclass
class IngestReport:
    """The result of `ingest`."""

    made: dict[Path, int] = field(default_factory=dict)
    """Number of tracks of each processed video."""
    found: int = 0
    """Number of videos that already had tracks."""
    bad: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be read, and why."""
    truncated: dict[Path, str] = field(default_factory=dict)
    """Videos that are shorter than their header states; the tracks up to their end are stored."""
    doubtful: dict[Path, str] = field(default_factory=dict)
    """Videos in which faces may have been missed, and why."""
    busy: list[Path] = field(default_factory=list)
    """Videos that another process was working on."""
    carried: CarriedOver = field(default_factory=CarriedOver)
    """Videos that had tracks under another path; they are counted in `found`."""
    gone: list[Path] = field(default_factory=list)
    """Missing videos that have track files in the folder."""

    def add(self, other: "IngestReport") -> None:
        """Add the report of another video."""
        self.made |= other.made
        self.found += other.found
        self.bad |= other.bad
        self.truncated |= other.truncated
        self.doubtful |= other.doubtful
        self.busy += other.busy


@dataclass(frozen=True)
class Processors:
    """What finds the faces in a video.

    Args:
        n_threads: number of threads.
        device: device that decodes videos and detects faces, see `Video` and `make_detector`.
    """

    n_threads: int = 1
    device: torch.device | str = "cpu"


class TrackSink(Protocol):
    """Protocol of an object that receives videos as soon as their tracks are written."""

    def expect(self, videos: Sequence[Path]) -> None:
        """Receive the videos that have tracks before any face is searched for, such as moved ones; `add` follows."""

    def add(self, video: Path) -> None:
        """Receive a video with an up-to-date track file."""


class _Progress:
    """Report finished megabytes; a video counts as at least one."""

    def __init__(self, videos: Sequence[Path], advance: Callable[[int, int], object]) -> None:
        self._advance = advance
        self._sizes = {video: _megabytes(video) for video in videos}
        self._total = sum(self._sizes.values())
        self._reported = dict.fromkeys(videos, 0)

    def __call__(self, video: Path, fraction: float) -> None:
        now = max(self._reported[video], int(self._sizes[video] * min(1.0, fraction)))
        self._advance(now - self._reported[video], self._total)
        self._reported[video] = now


def ingest(
    videos: Sequence[Path],
    out: Path,
    settings: TrackSettings,
    processors: Processors = Processors(),
    advance: Callable[[int, int], object] = lambda done, of: None,
    engine: Engine = local,
    sink: TrackSink | None = None,
) -> IngestReport:
    """Find the tracks of videos and write a file for each.

    A video that was moved, renamed, copied or touched is recognized by its content, see `content_of`, and its tracks
    are reused. The track file of the old path is removed if the video no longer exists there.

    Args:
        videos: video files.
        out: folder of the track files. Several processes may write to it at the same time.
        settings: settings of `find_tracks`.
        processors: threads and device that find faces in a video.
        advance: called with the megabytes done since the last call, and the total.
        engine: executor that processes the videos.
        sink: receives each video when its tracks are written, in this process.

    Returns:
        The results by video.

    Raises:
        UserError: if `out` cannot be written or the disk is full; finished track files are kept.
    """
    progress = _Progress(videos, advance)
    out.mkdir(parents=True, exist_ok=True)
    work = partial(_ingest_one, out=out.absolute(), settings=settings, processors=processors)
    if engine is local:  # the only executor that can report progress within a video
        work = partial(work, progress=progress)
    parts: dict[Path, IngestReport] = {}
    report = IngestReport()
    try:
        copies = copies_among(videos, out, settings)
        for choose in (
            lambda video: video not in copies,
            lambda video: video in copies,
            lambda video: parts[video].busy,  # the process that had it may have died
        ):
            some = [video for video in videos if choose(video)]
            if some or not parts:
                before = carry_over(some, out, settings)
                report.carried.moved.update(before.moved)
                report.carried.copies.update(before.copies)
                if sink is not None:
                    sink.expect([video for video in some if _is_done(video, out, settings)])
                for place, part in engine(work, some):
                    parts[some[place]] = part = part or IngestReport(bad={some[place]: LOST})
                    if sink is not None and (part.found or part.made):
                        sink.add(some[place])
                    progress(some[place], 1.0)
        report.gone = remove_moved(out)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        n_done = sum(part.found + len(part.made) for part in parts.values())
        raise UserError(
            f"{what}: {out}; {n_done} of {len(videos)} videos are done. Run the same command again to continue"
        ) from error
    for video in videos:
        if video in parts:
            report.add(parts[video])
    return report


def _is_done(video: Path, out: Path, settings: TrackSettings) -> bool:
    with suppress(OSError, UnicodeEncodeError):  # reported when the video is processed
        return has_tracks(track_path(out, video), video, settings)
    return False


def _ingest_one(
    video: Path,
    out: Path,
    settings: TrackSettings,
    processors: Processors,
    progress: Callable[[Path, float], object] = lambda video, fraction: None,
) -> IngestReport:
    report = IngestReport()
    try:
        path = track_path(out, video)
        if has_tracks(path, video, settings):
            report.found = 1
            return report
        with claimed(path) as is_mine:
            if not is_mine:
                report.busy.append(video)
            elif has_tracks(path, video, settings):  # another process wrote them in the meantime
                report.found = 1
            else:
                _write(path, Video(video, processors.device), settings, processors, partial(progress, video), report)
    except (UserError, cv2.error) as error:
        report.bad[video] = " ".join(str(error).removeprefix(f"{video}: ").split())
    except UnicodeEncodeError:
        report.bad[video] = "the path is not UTF-8, which an index requires: rename the file"
    except OSError:
        if is_gone(video):
            report.bad[video] = "the file no longer exists"
        elif not video.is_file() or os.access(video, os.R_OK):
            raise
        else:
            report.bad[video] = "the file cannot be read"
    return report


def _write(
    path: Path,
    video: Video,
    settings: TrackSettings,
    processors: Processors,
    progress: Callable[[float], object],
    report: IngestReport,
) -> None:
    length = video.announced_s
    advance = (lambda seconds: progress(seconds / length)) if length else (lambda seconds: None)
    with one_opencv_thread():
        found = find_tracks(video, settings, processors.n_threads, advance, processors.device)
        report.made[video.file] = write_tracks(path, video, found, settings)
    if video.is_truncated and length is not None:
        report.truncated[video.file] = f"{video.seen_s:.1f} of {length:.1f} s"
    if video.faults:
        report.doubtful[video.file] = ", ".join(video.faults)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Limit OpenCV to one thread in the block, in which several of our threads call it."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _megabytes(video: Path) -> int:
    try:
        return max(1, video.stat().st_size // 1_000_000)
    except OSError:
        return 1
