"""Files that appear whole or not at all, and locks between processes."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; rename it to `path` at the end, or remove it on an error.

    Raises:
        OSError: if it cannot be written; with the system's number and message, and the filename `path`.
    """
    if not path.name:  # as of . or /
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")  # see remove_unfinished
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # or a loss of power may leave the name without the content
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        if str(getattr(error, "filename", None) or unfinished) != str(unfinished):  # of another file
            raise
        # A failed write names no file, and libraries have messages of their own.
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        raise OSError(number, os.strerror(number) if number else str(error), str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes left half written in a folder; no other process may be writing there."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[list[int] | None]:
    """Lock a name for this process, until the block or the process ends.

    Where there are no such locks, as on Windows, or none can be made, as in a read-only folder, every process gets it:
    the work may then be done twice, with the same result.

    Args:
        path: a file that is made for it, and removed.
        waiting: called before this waits for another process; None does not wait.

    Yields:
        The file descriptors of the lock, none where there are no locks: a child process that inherits them has the lock
        too, as long as it lives. None if another process has the lock.
    """
    try:
        import fcntl

        # An untrusted folder may have a link there, to a file elsewhere that would be emptied.
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
    except (ImportError, OSError):
        yield []
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                yield None
                return
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # some network file systems
            yield []
            return
        try:
            yield [file.fileno()]
        finally:
            # A process that waits for it gets it; one that comes later makes a file of its own.
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
