"""What readers share: folders and files in the order of the numbers in their names, and face boxes that can be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from facereel.errors import UserError
from facereel.skipped import Skipped
from facereel.video.file_kinds import is_image, is_system_file, is_system_folder

# A side in pixels that no picture reaches.
_LARGEST_BOX = 20_000.0
_NUMBERS = re.compile(r"(\d+)")
# Of digits; Python refuses to read those of thousands.
_LONGEST_NUMBER = 1000


def existing(root: str | Path, option: str) -> Path:
    """The folder as a path.

    Raises:
        UserError: naming the option, if there is no such folder.
    """
    path = Path(str(root)).expanduser()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{option}: the folder's path {str(path)!a} is not UTF-8, as a manifest has to be") from error
    if not path.is_dir():
        raise UserError(f"{option}: there is no folder {path}")
    return path


def entries(folder: str | Path, skipped: Skipped, name: str = "") -> tuple[list[str], list[str]]:
    """List a folder without a look at the files themselves: a data set may hold millions.

    Args:
        folder: to be listed.
        skipped: counts what cannot be read: the folder; a link to nowhere, to itself, or to a folder around it; and a
            name that is not UTF-8, which neither the manifest nor a split file can hold. Hidden folders, recycle bins,
            thumbnail caches and files of the system are counted there too.
        name: what the folder is called in `skipped`.

    Returns:
        The names of the folders and of the files in it, each in natural order.
    """
    folders: list[str] = []
    files: list[str] = []
    prefix = f"{name}/" if name else ""
    try:
        with os.scandir(folder) as found:
            # Names of the same numbers, such as 1 and 01, need an order too: the file system's differs by machine.
            members = sorted(found, key=lambda entry: entry.name)
    except OSError:
        skipped.add("folder that cannot be read", name or str(folder))
        return folders, files
    for entry in members:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            skipped.add("name that is not UTF-8", prefix + ascii(entry.name)[1:-1])
            continue
        try:
            is_folder = entry.is_dir()
            if entry.is_symlink():
                os.stat(entry.path)
                if is_folder and _leads_back(Path(entry.path)):
                    skipped.add("link to a folder around it", prefix + entry.name)
                    continue
        except OSError:
            skipped.add("link that leads nowhere", prefix + entry.name)
            continue
        if is_folder and is_system_folder(entry.name):
            skipped.add("hidden or system folder", prefix + entry.name)
        elif not is_folder and is_system_file(entry.name):
            skipped.add("file of the system", prefix + entry.name)
        else:
            (folders if is_folder else files).append(entry.name)
    return sorted(folders, key=natural), sorted(files, key=natural)


def pictures(folder: str | Path, skipped: Skipped, name: str) -> list[str]:
    """The names of the pictures in a folder, in natural order; files and folders beside them are counted."""
    folders, files = entries(folder, skipped, name)
    for inner in folders:
        skipped.add("folder that is not read", f"{name}/{inner}")
    return [file for file in files if is_picture(file, skipped, name)]


def pictures_below(folder: str | Path, skipped: Skipped, name: str) -> Iterator[str]:
    """Every picture in a folder and the folders in it, as `name`/.../picture; other files are counted."""
    folders, files = entries(folder, skipped, name)
    yield from (f"{name}/{file}" for file in files if is_picture(file, skipped, name))
    for inner in folders:
        yield from pictures_below(f"{folder}/{inner}", skipped, f"{name}/{inner}")


def is_picture(file: str, skipped: Skipped, name: str) -> bool:
    """Whether a file's name is one of a picture; if not, it is counted."""
    if is_image(file):
        return True
    skipped.add("file that is not a picture", f"{name}/{file}")
    return False


def natural(name: str) -> list[str | int]:
    """Sort numbers inside names as numbers: frame 10 comes after frame 9."""
    # Text and numbers take turns, so that only like is compared with like.
    parts: list[str | int] = [*_NUMBERS.split(name)]
    parts[1::2] = (int(digits[:_LONGEST_NUMBER]) for digits in _NUMBERS.findall(name))
    return parts


def face_box(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float] | None:
    """The box, or None if it has no area, is not finite, or is larger than any picture."""
    if 0 < width < _LARGEST_BOX and 0 < height < _LARGEST_BOX and abs(left) < _LARGEST_BOX and abs(top) < _LARGEST_BOX:
        return left, top, width, height
    return None


def _leads_back(link: Path) -> bool:
    """Whether a link leads to a folder it lies in, be it on the way that we came or on the disk's own."""
    around = {*link.parents, *Path(os.path.realpath(link.parent), "-").parents}
    return any(os.path.samefile(link, folder) for folder in around)
