"""Atomic writes, locks between processes, and hashes of files."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Args:
        path: path of the file; an existing file is replaced.

    Yields:
        A temporary path in the same folder to write to. It is renamed to `path` at the end, or removed on an error.

    Raises:
        OSError: if the file cannot be written; with the system's error number and message, and `path` as file name.
        IsADirectoryError: if `path` has no name, as "." or "/".
    """
    if not path.name:  # such as . or /
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")  # see remove_unfinished
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # otherwise a power failure may leave the name without the content
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        if str(getattr(error, "filename", None) or unfinished) != str(unfinished):  # the error is about another file
            raise
        # The error of a failed write has no file name, and libraries have their own messages.
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        raise OSError(number, os.strerror(number) if number else str(error), str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes; no other process may be writing to the folder.

    Args:
        folder: the folder.
    """
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)


@contextmanager
def file_lock(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[list[int] | None]:
    """Lock a name for this process, until the block or the process ends.

    Without support for locks, as on Windows or in a read-only folder, every process gets the lock: work may then be
    done twice, with the same result.

    Args:
        path: the lock file, which is created and removed.
        waiting: function to call before waiting for another process; None does not wait.

    Yields:
        The file descriptors of the lock, empty without support for locks. A child process that inherits them keeps the
        lock until it ends. None if another process has the lock.
    """
    is_held = False
    while not is_held:
        try:
            import fcntl

            # An untrusted folder may have a link here, and the file it points to would be emptied.
            file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
        except (ImportError, OSError):
            yield []
            return
        with file:
            try:
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
                # The process that had the lock may have removed the file, and another may have created it again.
                if is_held := _is_at(file.fileno(), path):
                    yield [file.fileno()]
            finally:
                try:
                    _remove_lock(file.fileno(), path)
                finally:  # a signal may have interrupted that
                    _remove_lock(file.fileno(), path)


def _remove_lock(file: int, path: Path) -> None:
    """Remove a lock file, unless another process has the lock or the path."""
    import fcntl

    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, path):
            path.unlink()


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file still has its path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
