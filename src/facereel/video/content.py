"""Video files by their content, so that one is known again under another path; and which are gone."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

# Of a larger file so much is read: its first and last MiB, and blocks evenly spaced over what is between.
WHOLE_BYTES = 4 * 2**20
_END_BYTES = 2**20
_BLOCK_BYTES = 2**16
_N_BLOCKS = (WHOLE_BYTES - 2 * _END_BYTES) // _BLOCK_BYTES


def content_of(file: str | os.PathLike[str]) -> str:
    """Fingerprint a file by its size and the SHA-256 hash of its bytes.

    Of a file of more than 4 MiB the first MiB, the last MiB, and 32 blocks of 64 KiB evenly spaced between them are
    hashed, so that a film of any size takes 4 MiB of reading. Two files are taken for one if they have the same size
    and differ in none of these places, such as a download whose space is reserved, before and after a hole is filled.

    Returns:
        The size, a dash, and 64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    with open(file, "rb") as opened:
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
    """Whether there is no file of a name; False where that cannot be known, as in a folder that cannot be read."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return False


def is_folder_gone(path: str | os.PathLike[str]) -> bool:
    """Whether the folder that a file was in is gone or empty, as that of a drive is that is not connected."""
    try:
        with os.scandir(Path(path).parent) as entries:
            return next(entries, None) is None
    except OSError:
        return True
