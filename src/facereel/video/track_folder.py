"""A folder of track files: who is at which, and whose tracks are there already under another path."""

from __future__ import annotations

import glob
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from facereel.errors import UserError
from facereel.files import held, inside
from facereel.video.content import content_of, is_gone
from facereel.video.find_tracks import TrackSettings
from facereel.video.track_file import (
    ENDING,
    copy_tracks,
    identify,
    is_same_method,
    is_unchanged,
    read_about,
    track_path,
)

# Where tracks that are carried over are written first: their places may still hold others that are needed.
_ASIDE = ".moved"
_LOCK = ".moved.lock"


@dataclass
class CarriedOver:
    """Videos whose tracks were there under another path."""

    moved: dict[Path, Path] = field(default_factory=dict)
    """The path of a video now, and before."""
    copies: dict[Path, Path] = field(default_factory=dict)
    """The path of a video, and of another that has the same content."""


class _TrackFile(NamedTuple):
    """A track file and what it records of its video."""

    file: Path
    about: dict[str, Any]

    @property
    def video(self) -> Path:
        return Path(self.about["video"])


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a track file for this process, until the block or the process ends; False if another holds it."""
    lock = path.with_name(f".{path.name}.lock")
    with held(lock) as is_mine:
        if is_mine:
            for half in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if half != lock:  # what a killed process left
                    half.unlink()
        yield is_mine


def carry_over(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> CarriedOver:
    """Write track files of videos whose content has tracks in the folder: they were moved, copied or touched.

    Of two videos that took each other's names both keep their tracks. One process does this at a time. If it is killed,
    the next run finds again what was not carried over.

    Args:
        videos: files.
        folder: of the track files.
        settings: how tracks are found; those found otherwise are left.

    Raises:
        OSError: if the folder cannot be written.
    """
    done = CarriedOver()
    with held(folder / _LOCK, waiting=lambda: None):
        for lock in folder.glob(f".*{ENDING}.lock"):
            with held(lock):  # those that killed processes left are removed
                pass
        aside = inside(folder, folder / _ASIDE)
        wanted = [*_with_tracks(videos, folder, settings)]
        if wanted:
            aside.mkdir(exist_ok=True)
        ready = {}
        for video, before in wanted:
            path = track_path(folder, video)
            with suppress(UserError):  # the tracks are damaged: the video is done again
                copy_tracks(before.file, aside / path.name, before.about | identify(video))
                ready[video] = before.video
        for video, was in ready.items():
            path = track_path(folder, video)
            with claimed(path) as is_mine:
                if is_mine:
                    os.replace(aside / path.name, path)
                    if was != video:
                        (done.moved if is_gone(was) else done.copies)[video] = was
        shutil.rmtree(aside, ignore_errors=True)
    return done


def _with_tracks(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> Iterator[tuple[Path, _TrackFile]]:
    """Videos that are not done, and the track file of each one's content."""
    files = [*_track_files(folder), *_track_files(folder / _ASIDE)]
    own = {one.file: one for one in files}
    by_size: dict[int, list[_TrackFile]] = defaultdict(list)
    for one in files:
        if is_same_method(one.about, settings):
            by_size[one.about.get("bytes", -1)].append(one)
    for video in videos:
        # What cannot be read, or has a name that is not UTF-8, is dealt with later.
        with suppress(OSError, UnicodeEncodeError):
            others = by_size.get(video.stat().st_size)
            before = own.get(track_path(folder, video))
            if not others or (before in others and is_unchanged(before.about, video)):
                continue
            content = content_of(video)
            same = [one for one in others if one.about["content"] == content]
            if same:
                yield video, min(same, key=lambda one: (one != before, not is_gone(one.video), one.file))


def copies_among(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> set[Path]:
    """The videos that have the same content as one before them, and no tracks yet."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for video in videos:
        with suppress(OSError):
            by_size[video.stat().st_size].append(video)
    copies = set()
    for same_size in by_size.values():
        seen: set[str] = set()
        for video in same_size if len(same_size) > 1 else ():
            # What cannot be read, or has a name that is not UTF-8, is dealt with later.
            with suppress(OSError, UnicodeEncodeError):
                if not is_done(track_path(folder, video), video, settings):
                    content = content_of(video)
                    if content in seen:
                        copies.add(video)
                    seen.add(content)
    return copies


def is_done(path: Path, video: Path, settings: TrackSettings) -> bool:
    """Whether a track file is what the video, as it is now, would give, by its path, size and time of change."""
    try:
        about = read_about(path)
    except UserError:
        return False
    is_same = about["video"] == str(video.absolute()) and is_same_method(about, settings)
    return is_same and is_unchanged(about, video)


def remove_moved(folder: Path) -> list[Path]:
    """Delete the track files of videos that are gone where another's has the same content, and is up to date.

    Returns:
        The other videos that are gone. Their tracks stay: they may be on a drive that is not connected.
    """
    files = _track_files(folder)
    gone = [one for one in files if is_gone(one.video)]
    contents = set()
    for one in files if gone else ():
        with suppress(OSError):
            if is_unchanged(one.about, one.video):
                contents.add(one.about["content"])
    left = []
    for one in gone:
        if one.about["content"] in contents:
            with claimed(one.file) as is_mine:
                if is_mine:
                    one.file.unlink(missing_ok=True)
        else:
            left.append(one.video)
    return left


def _track_files(folder: Path) -> list[_TrackFile]:
    """Those that can be read, by name."""
    files = []
    for file in sorted(folder.glob(f"*{ENDING}")):
        with suppress(UserError):
            files.append(_TrackFile(file, read_about(file)))
    return files
