"""What readers share: folders and files in the order of the numbers in their names."""

from __future__ import annotations

import re
from pathlib import Path

from facereel.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg")


def existing(root: str | Path, option: str) -> Path:
    """The folder as a path.

    Raises:
        UserError: naming the option, if there is no such folder.
    """
    path = Path(str(root)).expanduser()
    if not path.is_dir():
        raise UserError(f"{option}: there is no folder {path}")
    return path


def folders(root: Path) -> list[Path]:
    """The folders in a folder, in natural order. A link in a circle is none."""
    return sorted((entry for entry in root.iterdir() if entry.is_dir()), key=natural)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort numbers inside names as numbers: frame 10 comes after frame 9."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
