"""Many videos to track files: what is done is not done again, and what is bad stops nothing."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2

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
) -> Ingested:
    """Find the tracks of videos and write a file for each.

    Args:
        videos: files.
        out: folder of the track files. Several processes may fill it at once.
        settings: how tracks are found.
        n_workers: threads that look for faces.
        advance: told how many more megabytes are done, of how many.

    Raises:
        UserError: if `out` cannot be written or the disk is full: what is done by then stays.
    """
    done = Ingested()
    sizes = [_size(video) for video in videos]
    total = sum(sizes)
    out.mkdir(parents=True, exist_ok=True)
    for video, size in zip(videos, sizes, strict=True):
        told = 0

        def tell(share: float, size: int = size) -> None:
            nonlocal told
            now = int(size * min(1.0, share))
            advance(now - told, total)
            told = now

        try:
            _ingest_one(video, out, settings, n_workers, tell, done)
        except (UserError, cv2.error) as error:
            done.bad[video] = " ".join(str(error).removeprefix(f"{video}: ").split())
        except UnicodeEncodeError:
            done.bad[video] = "its path is not UTF-8, as an index needs: rename it"
        except OSError as error:
            if video.is_file() and not os.access(video, os.R_OK):
                done.bad[video] = "the file cannot be read"
                continue
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise UserError(
                f"{what}: {out}; {done.found + len(done.made)} of {len(videos)} videos are done, the same command goes "
                "on from there"
            ) from error
        tell(1.0)
    return done


def _ingest_one(
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
