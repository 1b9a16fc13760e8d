"""Helpers of the readers: list folders and files in natural order, and check face boxes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from facereel.errors import UserError
from facereel.system.skipped import Skipped
from facereel.video.file_kinds import is_image, is_system_file, is_system_folder

# No image has a side of this many pixels.
_LARGEST_BOX = 20_000.0
_NUMBERS = re.compile(r"(\d+)")
# Number of digits to compare; Python refuses to parse numbers with thousands of digits.
_LONGEST_NUMBER = 1000


def existing(root: str | Path) -> Path:
    """Check that a folder exists.

    Args:
        root: the folder; ~ is expanded.

    Returns:
        The folder as a path.

    Raises:
        UserError: if the folder does not exist, or its path is not UTF-8.
    """
    path = Path(str(root)).expanduser()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the path of the folder {str(path)!a} is not UTF-8, which a manifest requires: rename the folder"
        ) from error
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    return path


def entries(folder: str | Path, skipped: Skipped, name: str = "") -> tuple[list[str], list[str]]:
    """List a folder without opening its files: a data set may have millions.

    Args:
        folder: the folder.
        skipped: counts what cannot be used: an unreadable folder; broken links and links to a parent folder; names that
            are not UTF-8, which neither the manifest nor a split file can store; hidden and system folders; system
            files.
        name: name of the folder in `skipped`.

    Returns:
        The names of the folders and of the files in it, each in natural order.
    """
    folders: list[str] = []
    files: list[str] = []
    prefix = f"{name}/" if name else ""
    try:
        with os.scandir(folder) as found:
            # Natural order has ties, such as 1 and 01, and the order of the file system differs between machines.
            members = sorted(found, key=lambda entry: entry.name)
    except OSError:
        skipped.add("folder that cannot be read", name or str(folder))
        return folders, files
    for entry in members:
        reason, is_folder = _why_skipped(entry)
        if reason:
            skipped.add(reason, prefix + entry.name.encode(errors="backslashreplace").decode())
        else:
            (folders if is_folder else files).append(entry.name)
    return sorted(folders, key=natural), sorted(files, key=natural)


def _why_skipped(entry: os.DirEntry[str]) -> tuple[str, bool]:
    """Return why an entry cannot be used (empty if it can), and whether it is a folder."""
    try:
        entry.name.encode()
        is_folder = entry.is_dir()
        if entry.is_symlink():
            Path(entry.path).stat()
            if is_folder and _leads_back(Path(entry.path)):
                return "link to a parent folder", is_folder
    except UnicodeEncodeError:
        return "name that is not UTF-8", False
    except OSError:
        return "broken link", False
    if is_folder and is_system_folder(entry.name):
        return "hidden or system folder", is_folder
    return "system file" if not is_folder and is_system_file(entry.name) else "", is_folder


def people_folders(root: Path, skipped: Skipped, name: str) -> list[str]:
    """List the folders of people.

    Args:
        root: folder with one folder for each person.
        skipped: counts files next to the folders.
        name: name of `root` in `skipped`.

    Returns:
        The names of the folders in natural order.
    """
    people, files = entries(root, skipped, name)
    for file in files:
        skipped.add("file outside a person's folder", f"{name}/{file}")
    return people


def images(folder: str | Path, skipped: Skipped, name: str) -> list[str]:
    """List the images in a folder.

    Args:
        folder: the folder.
        skipped: counts other files, and folders.
        name: name of the folder in `skipped`.

    Returns:
        The names of the images in natural order.
    """
    folders, files = entries(folder, skipped, name)
    for inner in folders:
        skipped.add("folder that is not read", f"{name}/{inner}")
    return _only_images(files, skipped, name)


def images_below(folder: str | Path, skipped: Skipped, name: str) -> Iterator[str]:
    """Find the images in a folder and its subfolders.

    Args:
        folder: the folder.
        skipped: counts other files.
        name: name of the folder in `skipped`, and prefix of the images.

    Yields:
        The images as `name`/.../image.
    """
    folders, files = entries(folder, skipped, name)
    yield from (f"{name}/{file}" for file in _only_images(files, skipped, name))
    for inner in folders:
        yield from images_below(f"{folder}/{inner}", skipped, f"{name}/{inner}")


def _only_images(files: list[str], skipped: Skipped, name: str) -> list[str]:
    for file in files:
        if not is_image(file):
            skipped.add("file that is not an image", f"{name}/{file}")
    return [file for file in files if is_image(file)]


def natural(name: str) -> list[str | int]:
    """Return a sort key that compares numbers inside names by value: frame 10 comes after frame 9."""
    # Text and numbers alternate, so that only values of one type are compared.
    parts: list[str | int] = [*_NUMBERS.split(name)]
    parts[1::2] = (int(digits[:_LONGEST_NUMBER]) for digits in _NUMBERS.findall(name))
    return parts


def face_box(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float] | None:
    """Return the box in pixels, or None if it has no area, is not finite, or is larger than any image."""
    if 0 < width < _LARGEST_BOX and 0 < height < _LARGEST_BOX and abs(left) < _LARGEST_BOX and abs(top) < _LARGEST_BOX:
        return left, top, width, height
    return None


def _leads_back(link: Path) -> bool:
    """Return whether a link points to a folder that contains it, by the given or by the resolved path."""
    around = {*link.parents, *Path(os.path.realpath(link.parent), "-").parents}
    return any(link.samefile(folder) for folder in around)
