"""A folder of track files: locks, and reuse of tracks when a video has another path."""

import glob
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from facereel.errors import UserError
from facereel.storage.files import file_lock
from facereel.storage.untrusted import resolve_inside
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

# Moved tracks are written here first: other tracks that are still needed may be at their final paths.
_STAGING = ".moved"
_LOCK = ".moved.lock"


@dataclass
class CarriedOver:
    """Videos that had tracks under another path."""

    moved: dict[Path, Path] = field(default_factory=dict)
    """The old path of each moved video."""
    copies: dict[Path, Path] = field(default_factory=dict)
    """For each copy of a video, the path of another file with the same content."""


class _TrackFile(NamedTuple):
    """A track file and its metadata."""

    file: Path
    about: dict[str, Any]

    @property
    def video(self) -> Path:
        return Path(self.about["video"])


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Lock a track file until the block or the process ends.

    Args:
        path: the track file.

    Yields:
        True, or False if another process has the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    with file_lock(lock) as held:
        if held is not None:
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if unfinished != lock:  # left by a killed process
                    unfinished.unlink()
        yield held is not None


def carry_over(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> CarriedOver:
    """Write track files for videos that were moved, copied or touched, from the tracks of the same content.

    Two videos that swapped their names both keep their tracks. One process does this at a time. If it is killed, the
    next run does the rest.

    Args:
        videos: video files.
        folder: folder of the track files.
        settings: settings of `find_tracks`; tracks found with others are ignored.

    Returns:
        The moved and copied videos.

    Raises:
        OSError: if the folder cannot be written.
    """
    done = CarriedOver()
    with file_lock(folder / _LOCK, waiting=lambda: None):
        for lock in folder.glob(f".*{ENDING}.lock"):
            with file_lock(lock):  # removes locks of killed processes
                pass
        staging = resolve_inside(folder, folder / _STAGING)
        ready = {}
        for video, before in [*_with_tracks(videos, folder, settings)]:
            staging.mkdir(exist_ok=True)
            with suppress(UserError):  # the tracks are damaged: the video is processed again
                staged = staging / track_path(folder, video).name
                copy_tracks(before.file, staged, before.about | identify(video))
                ready[video] = staged, before.video
        for video, (staged, old) in ready.items():
            path = track_path(folder, video)
            with claimed(path) as is_mine:
                if is_mine:
                    staged.replace(path)
                    if old != video:
                        (done.moved if is_gone(old) else done.copies)[video] = old
        shutil.rmtree(staging, ignore_errors=True)
    return done


def _with_tracks(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> Iterator[tuple[Path, _TrackFile]]:
    """Yield videos without tracks under their path, each with a track file of the same content."""
    files = [*_track_files(folder), *_track_files(folder / _STAGING)]
    by_path = {one.file: one for one in files}
    by_size: dict[int, list[_TrackFile]] = defaultdict(list)
    for one in files:
        if is_same_method(one.about, settings):
            by_size[one.about.get("bytes", -1)].append(one)
    for video in videos:
        # Unreadable files and names that are not UTF-8 are reported later.
        with suppress(OSError, UnicodeEncodeError):
            others = by_size.get(video.stat().st_size)
            before = by_path.get(track_path(folder, video))
            if not others or (before in others and is_unchanged(before.about, video)):
                continue
            content = content_of(video)
            same = [one for one in others if one.about["content"] == content]
            if same:
                yield video, min(same, key=lambda one: (one != before, not is_gone(one.video), one.file))


def copies_among(videos: Sequence[Path], folder: Path, settings: TrackSettings) -> set[Path]:
    """Find duplicates among videos without tracks.

    Args:
        videos: video files.
        folder: folder of the track files.
        settings: settings of `find_tracks`.

    Returns:
        The videos that have the same content as an earlier one.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for video in videos:
        with suppress(OSError):
            by_size[video.stat().st_size].append(video)
    copies = set()
    for same_size in by_size.values():
        seen: set[str] = set()
        for video in same_size if len(same_size) > 1 else ():
            # Unreadable files and names that are not UTF-8 are reported later.
            with suppress(OSError, UnicodeEncodeError):
                if not has_tracks(track_path(folder, video), video, settings):
                    content = content_of(video)
                    if content in seen:
                        copies.add(video)
                    seen.add(content)
    return copies


def has_tracks(path: Path, video: Path, settings: TrackSettings) -> bool:
    """Return whether a track file is up to date.

    Args:
        path: the track file.
        video: the video file; its path, size and modification time are compared.
        settings: settings of `find_tracks`, which are compared too.
    """
    try:
        about = read_about(path)
    except UserError:
        return False
    is_same = about["video"] == str(video.absolute()) and is_same_method(about, settings)
    return is_same and is_unchanged(about, video)


def remove_moved(folder: Path) -> list[Path]:
    """Remove the track files of missing videos that have an up-to-date track file under another path.

    Args:
        folder: folder of the track files.

    Returns:
        The other missing videos. Their tracks are kept: they may be on a drive that is not connected.
    """
    files = _track_files(folder)
    gone = [one for one in files if is_gone(one.video)]
    contents = set()
    for one in files if gone else ():
        with suppress(OSError):
            if is_unchanged(one.about, one.video):
                contents.add(one.about["content"])
    for one in gone:
        if one.about["content"] in contents:
            with claimed(one.file) as is_mine:
                if is_mine:
                    one.file.unlink(missing_ok=True)
    return [one.video for one in gone if one.about["content"] not in contents]


def settings_in(folder: Path) -> TrackSettings | None:
    """Return the settings of the first readable track file in a folder; None if there is none."""
    for file in sorted(folder.glob(f"*{ENDING}")):
        with suppress(UserError):
            return TrackSettings(**read_about(file)["settings"])
    return None


def detector_in(folder: Path) -> str | None:
    """Return the detector with which the tracks in a folder were found; None if the folder has no readable tracks."""
    found = settings_in(folder)
    return None if found is None else found.detector


def _track_files(folder: Path) -> list[_TrackFile]:
    """Return the readable track files, sorted by name."""
    files = []
    for file in sorted(folder.glob(f"*{ENDING}")):
        with suppress(UserError):
            files.append(_TrackFile(file, read_about(file)))
    return files
