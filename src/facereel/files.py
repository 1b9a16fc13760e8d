"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; rename it to `path` at the end, or remove it on an error."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # see remove_unfinished
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # or a loss of power may leave the name without the content
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed had begun to write into a folder; nobody else may be writing there."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)
