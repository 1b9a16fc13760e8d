"""Files that appear whole or not at all, names that one process holds, and files of strangers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from facereel.errors import UserError

# Of what describes something: a model, a run, an index. Lists of a data set's pictures may be larger.
LARGEST_JSON = 16 * 2**20


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; rename it to `path` at the end, or remove it on an error.

    Raises:
        OSError: if it cannot be written; it has the system's number and words, and the name `path`.
    """
    if not path.name:  # as of . or /
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # see remove_unfinished
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # or a loss of power may leave the name without the content
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        if str(getattr(error, "filename", None) or beside) != str(beside):  # of another file
            raise
        # A write tells no name, and libraries have words of their own.
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = int(said[1]) if said else getattr(error, "errno", None)
        raise OSError(number, os.strerror(number) if number else str(error), str(path)) from error
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

        # A stranger's folder may have a link there, to a file elsewhere that would be emptied.
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
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


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Parse a JSON file that may be a stranger's.

    Args:
        path: of the file.
        largest: that is read, in bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, no JSON, or nested deeper than Python follows.
    """
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path.name} has {size:,} bytes, more than the {largest:,} that are read")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that may be a stranger's.

    Raises:
        ValueError: if it is none, or nested deeper than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def inside(folder: Path, path: Path) -> Path:
    """Return a path that lies in a folder, whatever links and names of a stranger's lead to.

    Raises:
        UserError: if it lies elsewhere.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of {folder}: this folder is not as facereel wrote it, so it is not used")
    return path


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(path: Path, sha256: str, package: str) -> Path:
    """Return the path of a package's weights if they are those that we looked into.

    Raises:
        UserError: if the file has another hash.
    """
    if (found := sha256_of(path)) != sha256:
        raise UserError(
            f"{path} has the sha256 {found[:12]}..., the one we know {sha256[:12]}...: install {package} again"
        )
    return path
