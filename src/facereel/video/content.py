"""Recognize moved video files by their content, and find out which files are missing."""

import errno
import hashlib
import os
from pathlib import Path

# Number of bytes to read from a larger file: its first and last MiB, and evenly spaced blocks between them.
WHOLE_BYTES = 4 * 2**20
_END_BYTES = 2**20
_BLOCK_BYTES = 2**16
_N_BLOCKS = (WHOLE_BYTES - 2 * _END_BYTES) // _BLOCK_BYTES


def content_of(file: str | os.PathLike[str]) -> str:
    """Compute the fingerprint of a file: its size and the SHA-256 hash of its bytes.

    If a file has more than 4 MiB, only the first MiB, the last MiB, and 32 evenly spaced blocks of 64 KiB between them
    are hashed. Two files of equal size that differ only elsewhere have the same fingerprint, for example a download
    into preallocated space before and after a gap is filled.

    Args:
        file: the file.

    Returns:
        The size, a dash, and 64 hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.
    """
    with Path(file).open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size <= WHOLE_BYTES:
            return f"{size}-{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        digest = hashlib.sha256(opened.read(_END_BYTES))
        room = size - 2 * _END_BYTES - _BLOCK_BYTES
        for block in range(_N_BLOCKS):
            opened.seek(_END_BYTES + room * block // (_N_BLOCKS - 1))
            digest.update(opened.read(_BLOCK_BYTES))
        opened.seek(size - _END_BYTES)
        digest.update(opened.read(_END_BYTES))
    return f"{size}-{digest.hexdigest()}"


def is_gone(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is missing; False if that is unknown, as in a folder that cannot be read."""
    try:
        Path(path).stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return False


def is_folder_gone(path: str | os.PathLike[str]) -> bool:
    """Return whether the folder of a file is missing or empty, like that of a drive that is not connected."""
    try:
        with os.scandir(Path(path).parent) as entries:
            return next(entries, None) is None
    except OSError:
        return True
