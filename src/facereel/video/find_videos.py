"""The videos in folders: each file once, however many links lead to it, and a count of what is passed over."""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from facereel.errors import UserError
from facereel.video.file_kinds import ending_of, is_system_file, is_system_folder, is_text, is_video

# Named in a line of what was passed over.
_EXAMPLES = 3
_ENDINGS = 8

# What tells a file or folder from all others, whatever leads to it.
_Identity = tuple[int | str, ...]

_NO_REGULAR_FILE = "file that is no regular file", "files that are no regular files"
_UNREADABLE = "file or folder that cannot be read", "files or folders that cannot be read"
_SYSTEM_FOLDER = "hidden or system folder", "hidden or system folders"
_SYSTEM_FILE = "file of the system", "files of the system"
_BROKEN = "link that leads nowhere", "links that lead nowhere"
_AROUND = "link to a folder around it", "links to a folder around them"
_READ_ANYWAY = "link to a folder that is read anyway", "links to folders that are read anyway"


@dataclass
class PassedOver:
    """What `find_videos` saw and did not take."""

    endings: Counter[str] = field(default_factory=Counter)
    """Files that are not videos, by their endings."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Everything else by its kind, which has a name for one and a name for several."""
    examples: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    """The first few paths of each kind."""
    again: dict[Path, Path] = field(default_factory=dict)
    """Other paths of videos that were taken, by links or hard links, and the path that each was taken under."""

    def add(self, kind: tuple[str, str], path: Path) -> None:
        """Count one more of a kind."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(path)

    def lines(self) -> list[str]:
        """One line a kind."""
        lines = []
        if n_files := self.endings.total():
            kinds = [f"{n} {ending or 'without an ending'}" for ending, n in self.endings.most_common(_ENDINGS)]
            rest = n_files - sum(n for _, n in self.endings.most_common(_ENDINGS))
            said = ", ".join([*kinds, *([f"{rest} others"] if rest else [])])
            named = "file that is not a video" if n_files == 1 else "files that are not videos"
            lines.append(f"passed over {n_files} {named} ({said})")
        for kind, n in self.counts.items():
            said = ", ".join([*map(str, self.examples[kind]), *(["..."] if n > _EXAMPLES else [])])
            lines.append(f"passed over {n} {kind[n > 1]} ({said})")
        if n := len(self.again):
            pairs = [f"{path} is {kept}" for path, kept in [*self.again.items()][:_EXAMPLES]]
            said = ", ".join([*pairs, *(["..."] if n > _EXAMPLES else [])])
            lines.append(f"passed over {n} more {'path' if n == 1 else 'paths'} to videos that are taken once ({said})")
        return lines


class _Film(NamedTuple):
    """A path that leads to a video."""

    path: Path
    is_linked: bool
    """Whether a link is on the way."""
    identity: _Identity


def find_videos(paths: Sequence[Path], passed_over: PassedOver | None = None) -> list[Path]:
    """Find the videos in folders, however deep, and files as they are named.

    In folders, files with one of `VIDEO_ENDINGS` are taken. Links to folders and files are followed. Hidden
    folders, and what belongs to the system, are passed over unless they are named themselves.

    Args:
        paths: files and folders.
        passed_over: counts everything that is not taken.

    Returns:
        Absolute paths, each file once: of several paths the first in sorted order among those without a link, if there
        are any, else among all.

    Raises:
        UserError: if a path is absent.
    """
    walk = _Walk(PassedOver() if passed_over is None else passed_over)
    for path in paths:
        whole = path.absolute()
        if ".." in whole.parts:
            whole = whole.resolve()
        if path.is_dir():
            walk.read_root(whole)
        elif path.is_file():
            walk.found.append(_Film(whole, _is_linked(whole), _identity(whole, os.stat(whole))))
        elif path.exists():
            walk.passed_over.add(_NO_REGULAR_FILE, whole)
        else:
            raise UserError(f"{path}: there is no such file or folder")
    walk.follow_links()
    return walk.distinct()


class _Walk:
    """Folders under way. Links wait until all that is reached without them is read."""

    def __init__(self, passed_over: PassedOver) -> None:
        self.found: list[_Film] = []
        self.passed_over = passed_over
        self._seen: dict[_Identity, Path] = {}
        """Folders that were read, under which path."""
        self._links: list[tuple[str, bool]] = []
        """A heap of links, and whether each was named itself."""

    def read_root(self, folder: Path) -> None:
        """Read a folder that was named."""
        if _is_linked(folder):
            heapq.heappush(self._links, (str(folder), True))
        else:
            self._read(folder, is_linked=False)

    def follow_links(self) -> None:
        """Read where links lead to, and where links that are found there lead to."""
        while self._links:
            name, is_named = heapq.heappop(self._links)
            path = Path(name)
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                self.passed_over.add(_BROKEN, path)
            except OSError as error:
                self.passed_over.add(_UNREADABLE if isinstance(error, PermissionError) else _BROKEN, path)
            else:
                if not stat.S_ISDIR(status.st_mode):
                    self._consider(path, is_linked=True)
                elif not is_named and _leads_around(path):
                    self.passed_over.add(_AROUND, path)
                elif self._seen.get(_identity(path, status), path) != path:
                    self.passed_over.add(_READ_ANYWAY, path)
                else:
                    self._read(path, is_linked=True)

    def _read(self, root: Path, *, is_linked: bool) -> None:
        """Read a folder and those in it, a folder's files before its folders."""
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                identity = _identity(folder, os.stat(folder))
                if identity in self._seen:
                    continue
                self._seen[identity] = folder
                with os.scandir(folder) as entries:
                    members = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.passed_over.add(_UNREADABLE, folder)
                continue
            inner = [Path(folder, entry.name) for entry in members if self._is_folder(entry, folder, is_linked)]
            folders += reversed(inner)

    def _is_folder(self, entry: os.DirEntry[str], folder: Path, is_linked: bool) -> bool:
        """Whether an entry is a folder to be read; if not, it is dealt with."""
        path = Path(folder, entry.name)
        if is_system_file(entry.name):
            self.passed_over.add(_SYSTEM_FILE, path)
        elif is_system_folder(entry.name) and os.path.isdir(path):
            self.passed_over.add(_SYSTEM_FOLDER, path)
        elif entry.is_symlink():
            heapq.heappush(self._links, (str(path), False))
        elif entry.is_dir(follow_symlinks=False):
            return True
        else:
            self._consider(path, is_linked)
        return False

    def _consider(self, path: Path, is_linked: bool) -> None:
        """Take a file that is a video, and count one that is not."""
        ending = ending_of(path.name)
        if not is_video(path.name):
            self.passed_over.endings[ending] += 1
            return
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                self.passed_over.add(_NO_REGULAR_FILE, path)
                return
            if os.access(path, os.R_OK) and is_text(path):
                self.passed_over.endings[f"{ending} of text"] += 1
                return
        except OSError:
            self.passed_over.add(_UNREADABLE, path)
            return
        self.found.append(_Film(path, is_linked, _identity(path, status)))

    def distinct(self) -> list[Path]:
        """Each video once, in the order in which the paths that are kept were found."""
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
                self.passed_over.again[film.path] = path
        return list(videos)


def _identity(path: Path, status: os.stat_result) -> _Identity:
    """The device and number of a file, or its path without links where the file system has no numbers."""
    place = (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(path),)
    # A network file system may give a number twice: files of two sizes are two.
    return place if stat.S_ISDIR(status.st_mode) else (*place, status.st_size)


def _is_linked(path: Path) -> bool:
    return os.path.realpath(path) != str(path)


def _leads_around(link: Path) -> bool:
    """Whether a link leads to a folder that it is in, or that something on the way to it is in."""
    target = os.path.realpath(link)
    return any(Path(os.path.realpath(folder)).is_relative_to(target) for folder in link.parents)
