"""Find the videos in folders, each file once even if several links lead to it, and count skipped files."""

import heapq
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facereel.errors import UserError
from facereel.system.skipped import Skipped
from facereel.video.file_kinds import ending_of, is_system_file, is_system_folder, is_text, is_video

# Identifies a file or folder independently of its path.
_Identity = tuple[int | str, ...]

_NOT_REGULAR = "file that is not a regular file"
_UNREADABLE = "file or folder that cannot be read"
_BROKEN = "broken link"


class _Film(NamedTuple):
    """A path that leads to a video."""

    path: Path
    is_linked: bool
    """Whether a link is part of the path."""
    identity: _Identity


def find_videos(paths: Sequence[Path], skipped: Skipped | None = None) -> list[Path]:
    """Find the videos in folders and their subfolders, and videos given by name.

    In folders, files with one of `VIDEO_ENDINGS` are found. Links to folders and files are followed. Hidden and system
    folders are skipped unless they are given by name.

    Args:
        paths: files and folders.
        skipped: counts everything that is skipped.

    Returns:
        Absolute paths, each file once. If several paths lead to a file, paths without a link come first, then the
        first in sorted order.

    Raises:
        UserError: if a path does not exist.
    """
    walk = _Walk(Skipped() if skipped is None else skipped)
    for path in paths:
        whole = path.absolute()
        if ".." in whole.parts:
            whole = whole.resolve()
        if path.is_dir():
            walk.read_root(whole)
        elif path.is_file():
            walk.found.append(_Film(whole, _is_linked(whole), _identity(whole, whole.stat())))
        elif path.exists():
            walk.skipped.add(_NOT_REGULAR, str(whole))
        else:
            raise UserError(f"{path}: there is no such file or folder")
    walk.follow_links()
    return walk.distinct()


class _Walk:
    """A walk through folders. Links are followed after everything that is reachable without them was read."""

    def __init__(self, skipped: Skipped) -> None:
        self.found: list[_Film] = []
        self.skipped = skipped
        self._seen: dict[_Identity, Path] = {}
        """The path by which each folder was read."""
        self._links: list[tuple[str, bool]] = []
        """A heap of links, and whether each was given by name."""

    def read_root(self, folder: Path) -> None:
        """Read a folder given by name."""
        if _is_linked(folder):
            heapq.heappush(self._links, (str(folder), True))
        else:
            self._read(folder, is_linked=False)

    def follow_links(self) -> None:
        """Read the targets of links, and of links in those."""
        while self._links:
            name, is_named = heapq.heappop(self._links)
            path = Path(name)
            try:
                status = path.stat()
            except OSError as error:
                self.skipped.add(_UNREADABLE if isinstance(error, PermissionError) else _BROKEN, name)
                continue
            if not stat.S_ISDIR(status.st_mode):
                self._consider(path, is_linked=True)
            elif not is_named and _leads_around(path):
                self.skipped.add("link to a parent folder", name)
            elif self._seen.get(_identity(path, status), path) != path:
                self.skipped.add("link to a folder that is read anyway", name)
            else:
                self._read(path, is_linked=True)

    def _read(self, root: Path, *, is_linked: bool) -> None:
        """Read a folder and its subfolders, files before folders."""
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                identity = _identity(folder, folder.stat())
                if identity in self._seen:
                    continue
                self._seen[identity] = folder
                with os.scandir(folder) as entries:
                    members = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.skipped.add(_UNREADABLE, str(folder))
                continue
            inner = [Path(folder, entry.name) for entry in members if self._is_folder(entry, folder, is_linked)]
            folders += reversed(inner)

    def _is_folder(self, entry: os.DirEntry[str], folder: Path, is_linked: bool) -> bool:
        """Return whether an entry is a folder to read; all other entries are handled here."""
        path = Path(folder, entry.name)
        if is_system_file(entry.name):
            self.skipped.add("system file", str(path))
        elif is_system_folder(entry.name) and _is_dir(path):
            self.skipped.add("hidden or system folder", str(path))
        elif entry.is_symlink():
            heapq.heappush(self._links, (str(path), False))
        elif entry.is_dir(follow_symlinks=False):
            return True
        else:
            self._consider(path, is_linked)
        return False

    def _consider(self, path: Path, is_linked: bool) -> None:
        """Add a video, or count any other file as skipped."""
        ending = ending_of(path.name)
        if not is_video(path.name):
            self.skipped.add(f"file that is not a video, {ending or 'without an extension'}", str(path))
            return
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                self.skipped.add(_NOT_REGULAR, str(path))
            elif os.access(path, os.R_OK) and is_text(path):
                self.skipped.add(f"file that is not a video, {ending} of text", str(path))
            else:
                self.found.append(_Film(path, is_linked, _identity(path, status)))
        except OSError:
            self.skipped.add(_UNREADABLE, str(path))

    def distinct(self) -> list[Path]:
        """Return each video once, in the order in which its path was found."""
        kept: dict[_Identity, _Film] = {}
        for film in self.found:
            other = kept.get(film.identity, film)
            kept[film.identity] = min(film, other, key=lambda one: (one.is_linked, str(one.path)))
        videos: dict[Path, None] = {}
        for film in self.found:
            path = kept[film.identity].path
            if film.path == path:
                videos[path] = None
            else:
                self.skipped.add("other path to the same video", f"{film.path} is {path}")
        return list(videos)


def _identity(path: Path, status: os.stat_result) -> _Identity:
    """Return the device and number of a file, or its resolved path on file systems without numbers."""
    place = (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(path),)
    # A network file system may use a number twice: files of different sizes are different files.
    return place if stat.S_ISDIR(status.st_mode) else (*place, status.st_size)


def _is_dir(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # Path.is_dir raises if the parent folder cannot be read
        return False


def _is_linked(path: Path) -> bool:
    return os.path.realpath(path) != str(path)


def _leads_around(link: Path) -> bool:
    """Return whether a link leads to a folder that contains it, or contains a folder on the path to it."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(folder)).is_relative_to(target) for folder in link.parents)
