"""Files that appear whole or not at all, and names that one process holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


@contextmanager
def held(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold a name for this process, until the block or the process ends; yield False if another process holds it.

    Everybody holds it where there are no such locks, as on Windows, or none can be made, as in a folder to read only:
    a thing may then be done twice, with the same result.

    Args:
        path: a file that is made for it, and removed.
        waiting: called before another process is waited for; None does not wait.
    """
    try:
        import fcntl

        file = path.open("w")
    except (ImportError, OSError):
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                yield False
                return
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # some network file systems
            yield True
            return
        try:
            yield True
        finally:
            # Who waits for it is let in; who comes later makes a file of its own.
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed had begun to write into a folder; nobody else may be writing there."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)
