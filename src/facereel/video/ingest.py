"""Many videos to track files: what is done is not done again, and what is bad stops nothing."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2

from facereel.engine import LOST, Engine, local
from facereel.errors import UserError
from facereel.files import held
from facereel.video.decode import Video
from facereel.video.find_tracks import TrackSettings, find_tracks
from facereel.video.track_file import describe, read_about, track_path, write_tracks

# In a folder, files with these endings are taken for videos; a file that is named itself may have any.
VIDEO_ENDINGS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


@dataclass
class Ingested:
    """What a run of `ingest` did."""

    made: dict[Path, int] = field(default_factory=dict)
    """How many tracks each video has."""
    found: int = 0
    """Videos that were done before."""
    bad: dict[Path, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    cut_short: dict[Path, str] = field(default_factory=dict)
    """Videos that end before their header says; the tracks up to there are kept."""
    doubtful: dict[Path, str] = field(default_factory=dict)
    """Videos in which faces may have been missed, and why."""
    busy: list[Path] = field(default_factory=list)
    """Videos that another process was at."""


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """The videos in folders, however deep, and files as they are named; each once, by path.

    Raises:
        UserError: if a path is absent.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                names = sorted(name for name in files if Path(name).suffix.lower() in VIDEO_ENDINGS)
                found |= dict.fromkeys(Path(folder, name).absolute() for name in names)
        elif path.exists():
            found[path.absolute()] = None
        else:
            raise UserError(f"{path}: there is no such file or folder")
    return list(found)


def ingest(
    videos: Sequence[Path],
    out: Path,
    settings: TrackSettings,
    n_workers: int = 1,
    advance: Callable[[int, int], object] = lambda done, of: None,
    engine: Engine = local,
) -> Ingested:
    """Find the tracks of videos and write a file for each.

    Args:
        videos: files.
        out: folder of the track files. Several processes may fill it at once.
        settings: how tracks are found.
        n_workers: threads that look for faces in a video.
        advance: told how many more megabytes are done, of how many.
        engine: that does the videos.

    Raises:
        UserError: if `out` cannot be written or the disk is full: what is done by then stays.
    """
    sizes = {video: _size(video) for video in videos}
    total = sum(sizes.values())
    told = dict.fromkeys(videos, 0)

    def tell(video: Path, share: float) -> None:
        now = int(sizes[video] * min(1.0, share))
        advance(now - told[video], total)
        told[video] = now

    out.mkdir(parents=True, exist_ok=True)
    work = partial(_ingest_one, out=out.absolute(), settings=settings, n_workers=n_workers)
    if engine is local:  # which alone can be told of a part of a video
        work = partial(work, tell=tell)
    parts: dict[int, Ingested] = {}
    try:
        for place, part in engine(work, videos):
            parts[place] = part or Ingested(bad={videos[place]: LOST})
            tell(videos[place], 1.0)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        n_done = sum(part.found + len(part.made) for part in parts.values())
        raise UserError(
            f"{what}: {out}; {n_done} of {len(videos)} videos are done, the same command goes on from there"
        ) from error
    return _together(parts[place] for place in sorted(parts))


def _together(parts: Iterable[Ingested]) -> Ingested:
    done = Ingested()
    for part in parts:
        done.made |= part.made
        done.found += part.found
        done.bad |= part.bad
        done.cut_short |= part.cut_short
        done.doubtful |= part.doubtful
        done.busy += part.busy
    return done


def _ingest_one(
    video: Path,
    out: Path,
    settings: TrackSettings,
    n_workers: int,
    tell: Callable[[Path, float], object] = lambda video, share: None,
) -> Ingested:
    done = Ingested()
    try:
        _try_one(video, out, settings, n_workers, partial(tell, video), done)
    except (UserError, cv2.error) as error:
        done.bad[video] = " ".join(str(error).removeprefix(f"{video}: ").split())
    except UnicodeEncodeError:
        done.bad[video] = "its path is not UTF-8, as an index needs: rename it"
    except OSError:
        if not video.is_file() or os.access(video, os.R_OK):
            raise
        done.bad[video] = "the file cannot be read"
    return done


def _try_one(
    video: Path,
    out: Path,
    settings: TrackSettings,
    n_workers: int,
    tell: Callable[[float], object],
    done: Ingested,
) -> None:
    path = track_path(out, video)
    if is_done(path, video, settings):
        done.found += 1
        return
    with _claimed(path) as is_mine:
        if not is_mine:
            done.busy.append(video)
            return
        if is_done(path, video, settings):  # by another process, since we looked
            done.found += 1
            return
        opened = Video(video)
        length = opened.announced_s

        def advance(seconds: float) -> None:
            if length:
                tell(seconds / length)

        done.made[video] = write_tracks(path, opened, find_tracks(opened, settings, n_workers, advance), settings)
        if opened.is_cut_short and length is not None:
            done.cut_short[video] = f"{opened.seen_s:.1f} of {length:.1f} s"
        if opened.faults:
            done.doubtful[video] = ", ".join(opened.faults)


def is_done(path: Path, video: Path, settings: TrackSettings) -> bool:
    """Whether a track file is what the video, as it is now, would give."""
    if not path.is_file():
        return False
    try:
        before = read_about(path)
    except UserError:
        return False
    now = describe(video, settings)
    return all(before.get(name) == value for name, value in now.items())


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Hold a video for this process, until the block or the process ends; False if another holds it."""
    lock = path.with_name(f".{path.name}.lock")
    with held(lock) as ours:
        if ours:
            for half in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if half != lock:  # what a killed process left
                    half.unlink()
        yield ours


def _size(video: Path) -> int:
    """In megabytes, at least 1, so that small files count too."""
    try:
        return max(1, video.stat().st_size // 1_000_000)
    except OSError:
        return 1
