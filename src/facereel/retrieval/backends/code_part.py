"""`CodePart`: packed codes with ascending ids, in memory or memory-mapped from a file, some of them removed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_NONE = np.zeros(0, np.int64)

# Number of ids to look up at a time, so that a search in many codes copies few of them.
_IDS_AT_ONCE = 2**20
# Number of bytes to move at a time.
_MOVED_AT_ONCE = 2**24


class CodePart(NamedTuple):
    """N packed codes with ascending ids.

    The codes of removed positions stay in the arrays: a file is never written again.
    """

    ids: NDArray[np.int64]
    """(N,) int64, ascending."""
    codes: NDArray[np.uint8]
    """(N, W) uint8."""
    removed: NDArray[np.int64] = _NONE
    """(M,) int64 positions of removed codes, ascending."""

    @classmethod
    def of(cls, ids: NDArray[np.int64], codes: NDArray[np.uint8]) -> Self:
        """Create a part of codes whose ids are in any order; the arrays are copied.

        Args:
            ids: (N,) int64, unique.
            codes: (N, W) uint8.

        Returns:
            The part.
        """
        order = ids.argsort(kind="stable")
        return cls(ids[order], codes[order])

    @property
    def n_codes(self) -> int:
        """Number of codes that are not removed."""
        return len(self.ids) - len(self.removed)

    def kept(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the ids and the codes that are not removed; they are copied if some are removed."""
        if len(self.removed) == 0:
            return self.ids, self.codes
        return np.delete(self.ids, self.removed), np.delete(self.codes, self.removed, axis=0)

    def between(self, start: int, stop: int) -> "CodePart":
        """Return a view of the positions start <= i < stop.

        Args:
            start: first position.
            stop: position after the last one.
        """
        first, last = np.searchsorted(self.removed, [start, stop])
        return CodePart(self.ids[start:stop], self.codes[start:stop], self.removed[first:last] - start)

    def blocks(self, size: int) -> Iterator["CodePart"]:
        """Yield views of `size` positions each, and of the rest.

        Args:
            size: number of positions.

        Yields:
            The views.
        """
        for start in range(0, len(self.ids), size):
            yield self.between(start, start + size)

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of codes that are not removed.

        Args:
            ids: (M,) int64, ascending and unique; unknown ids are ignored.
        """
        places = np.searchsorted(self.ids, ids)
        places = places[places < len(self.ids)]
        places = places[self.ids[places] == ids[: len(places)]]
        return np.setdiff1d(places, self.removed, assume_unique=True) if len(self.removed) else places

    def without(self, ids: NDArray[np.int64]) -> "CodePart":
        """Return the part without some codes.

        Args:
            ids: (M,) int64, ascending and unique; unknown ids are ignored.
        """
        places = self.places(ids)
        return self._replace(removed=np.union1d(self.removed, places)) if len(places) else self

    def subset(self, ids: NDArray[np.int64]) -> Iterator["CodePart"]:
        """Yield the codes with the given ids in parts, of which each is a view, or a copy of at most 2^20 codes.

        Args:
            ids: (M,) int64, ascending and unique; unknown ids are ignored.
        """
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            view = self.between(np.searchsorted(self.ids, some[0]), np.searchsorted(self.ids, some[-1], "right"))
            places = view.places(some)
            if len(places) < view.n_codes:
                view = CodePart(view.ids[places], view.codes[places])
            if view.n_codes:
                yield view


def join(parts: Sequence[CodePart]) -> CodePart:
    """Copy the codes of parts into one part, without the removed ones.

    Args:
        parts: at least one part.

    Returns:
        The part.
    """
    ids, codes = zip(*(part.kept() for part in parts), strict=True)
    return CodePart.of(np.concatenate(ids), np.concatenate(codes))


def write_part(path: Path, n_codes: int, n_bytes: int, blocks: Iterable[CodePart]) -> int:
    """Write codes to a file: all ids as little-endian int64, then all codes. Memory for one block is used.

    Args:
        path: the file.
        n_codes: maximum number of codes. If there are fewer, the file is made shorter.
        n_bytes: W, bytes of a code.
        blocks: codes in ascending order of their ids; removed ones are skipped.

    Returns:
        N, the number of codes in the file.
    """
    n_written = 0
    with path.open("wb+") as file:
        for block in blocks:
            ids, codes = block.kept()
            file.seek(8 * n_written)
            file.write(ids.astype("<i8").tobytes())
            file.seek(8 * n_codes + n_bytes * n_written)
            file.write(codes.tobytes())
            n_written += len(ids)
        if n_written < n_codes:  # move the codes to the end of the ids
            _move(file, 8 * n_codes, 8 * n_written, n_bytes * n_written)
            file.truncate((8 + n_bytes) * n_written)
    return n_written


def _move(file: IO[bytes], source: int, target: int, n_bytes: int) -> None:
    """Move bytes of a file towards its start."""
    for done in range(0, n_bytes, _MOVED_AT_ONCE):
        file.seek(source + done)
        some = file.read(min(_MOVED_AT_ONCE, n_bytes - done))
        file.seek(target + done)
        file.write(some)


def read_part(path: Path, n_codes: int, n_bytes: int, mapped: bool = True) -> CodePart:
    """Read a file from `write_part`, which may be untrusted: wrong content gives wrong results, nothing worse.

    Args:
        path: the file.
        n_codes: N, the number of codes.
        n_bytes: W, bytes of a code.
        mapped: memory-map the file: the system reads only what is searched, and processes share the memory.

    Returns:
        The codes, without removed ones.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file does not have the size of N codes.
    """
    if n_codes < 0 or path.stat().st_size != n_codes * (8 + n_bytes):
        raise ValueError(f"{path} does not have {n_codes} codes of {n_bytes} bytes")
    if n_codes == 0:  # an empty file cannot be mapped
        return CodePart(_NONE, np.zeros((0, n_bytes), np.uint8))
    content = np.memmap(path, np.uint8, "r").view(np.ndarray) if mapped else np.fromfile(path, np.uint8)
    return CodePart(content[: 8 * n_codes].view("<i8"), content[8 * n_codes :].reshape(n_codes, n_bytes))


def overwrite(path: Path, part: CodePart, places: NDArray[np.int64]) -> None:
    """Overwrite codes of a file with zeros, after they were erased.

    Args:
        path: a file from `write_part`.
        part: the part that was read from it.
        places: positions of the codes.
    """
    n_bytes = part.codes.shape[1]
    with path.open("rb+") as file:
        for place in places.tolist():
            file.seek(8 * len(part.ids) + n_bytes * place)
            file.write(bytes(n_bytes))
