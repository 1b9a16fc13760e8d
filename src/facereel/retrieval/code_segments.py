"""`CodeSegments`: the codes of an index in files that are appended and merged, so that a change never rewrites all.

DIR/codes/NAME.bin has the codes of consecutive tracks; the database lists these files. Codes of later tracks are read
from the database until `CodeSegments.save` writes them to another file. The database also lists the erased tracks whose
codes are still in a file: they are overwritten with zeros there, and dropped when the file is merged with its neighbor.
All files may be deleted: they are made again from the database.
"""

import re
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.retrieval.backends.code_part import CodePart, overwrite, read_part, write_part
from facereel.retrieval.code_index import CodeIndex
from facereel.retrieval.track_database import ERASED_CODES, SEGMENTS, TrackDatabase, damaged
from facereel.storage.files import atomic_write, file_lock, remove_unfinished
from facereel.storage.untrusted import resolve_inside

FOLDER = "codes"
_NAME = re.compile(r"[0-9a-f]{32}")

# More codes than this are written to a file before they are loaded, so that they do not need memory.
_MOST_UNSAVED = 1_000_000
# A file is written again without its erased codes if they are more than this fraction.
_MOST_ERASED = 0.125
# Number of codes to copy at a time.
_AT_ONCE = 2**18

# Metadata that changes with the codes.
_CODES_DEPEND_ON = ("model", "encoding", "n_bits", "codes", SEGMENTS)


class Segment(NamedTuple):
    """A file with the codes of consecutive tracks."""

    name: str
    n_codes: int
    last_id: int
    """The largest id of a track when the file was written: later tracks are not in it."""


class _State(NamedTuple):
    """What the database says about the codes at one time."""

    about: dict[str, Any]
    segments: list[Segment]
    parts: list[CodePart]
    """The codes of each segment, without those of erased tracks."""

    @property
    def last_id(self) -> int:
        return self.segments[-1].last_id if self.segments else -1

    @property
    def n_bits(self) -> int:
        return int(self.about["n_bits"])

    @property
    def n_bytes(self) -> int:
        return -(-self.n_bits // 8)


class _CodesChangedError(Exception):
    """Another process changed the codes while they were read."""


def _has_changed(state: _State, about: dict[str, Any]) -> bool:
    return any(about.get(key) != state.about.get(key) for key in _CODES_DEPEND_ON)


class CodeSegments:
    """The codes of an index with FAISS, in memory-mapped files.

    Args:
        database: database of the index.
    """

    def __init__(self, database: TrackDatabase) -> None:
        self._database = database
        self._folder = database.folder / FOLDER
        self._mapped: dict[str, CodePart] = {}

    def load(self) -> tuple[int, CodeIndex]:
        """Return the generation of the database and its codes, of which those in files are mapped, not read.

        Raises:
            UserError: if the index is damaged.
        """
        with suppress(OSError, UserError):  # the folder is read-only or the disk is full: all unsaved codes are read
            if self._has_many_unsaved():
                self.save()
        with self._database.read() as connection:
            connection.execute("BEGIN")
            state = self._state(connection)
            packed, ids = self._database.codes_after(connection, state.last_id, state.n_bits)
        return int(state.about["generation"]), CodeIndex.of_parts(state.n_bits, [*state.parts, CodePart(ids, packed)])

    def _has_many_unsaved(self) -> bool:
        """Return whether there are too many unsaved codes to read them all."""
        query = "SELECT 1 FROM tracks WHERE id > ? LIMIT 1 OFFSET ?"
        with self._database.read() as connection:
            last_id = self._state(connection).last_id
            return connection.execute(query, (last_id, _MOST_UNSAVED)).fetchone() is not None

    def save(self) -> None:
        """Write the codes that are not in a file, overwrite erased ones, merge small files, and delete unused ones.

        If this is killed, nothing is lost: a file counts when the database lists it. Other processes may read, write
        and search in the meantime.

        Raises:
            OSError: if a file cannot be written.
            UserError: if the index is damaged.
        """
        resolve_inside(self._database.folder, self._folder)
        with file_lock(self._database.folder / ".codes.lock", waiting=lambda: None):
            self._folder.mkdir(exist_ok=True)
            remove_unfinished(self._folder)
            while not self._append():
                pass
            with self._database.read() as connection:
                state = self._state(connection)
            for segment, part in zip(state.segments, state.parts, strict=True):
                places = part.removed[part.codes[part.removed].any(axis=1)]
                if len(places):
                    overwrite(self._path(segment.name), part, places)
            while self._merge():
                pass
            self._remove_unused()

    def clear(self) -> None:
        """Delete all files, for an index with another search backend."""
        with self._database.write(codes_change=False) as connection:
            self._database.set_about(connection, {SEGMENTS: []})
            connection.execute(ERASED_CODES)
            connection.execute("DELETE FROM erased_codes")
        if self._folder.is_dir():
            self._remove_unused()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def _state(self, connection: sqlite3.Connection) -> _State:
        """Read the segments; they are empty if a file is missing or has the wrong size."""
        about = self._database.about_within(connection)
        segments = self._listed(about)
        n_bytes = -(-int(about["n_bits"]) // 8)
        try:
            self._mapped = {
                one.name: self._mapped.get(one.name) or read_part(self._path(one.name), one.n_codes, n_bytes)
                for one in segments
            }
        except (OSError, ValueError):
            return _State(about, [], [])
        erased = np.zeros(0, np.int64)
        if segments:
            rows = connection.execute("SELECT track FROM erased_codes ORDER BY track")
            erased = np.fromiter((track for (track,) in rows), np.int64)
        return _State(about, segments, [self._mapped[one.name].without(erased) for one in segments])

    def _listed(self, about: dict[str, Any]) -> list[Segment]:
        try:
            segments = [Segment(*row) for row in about.get(SEGMENTS, [])]
            for one in segments:
                if not (_NAME.fullmatch(one.name) and type(one.n_codes) is type(one.last_id) is int):
                    raise TypeError("a name or a number is invalid")
                if not (one.n_codes >= 0 and 0 <= one.last_id < 2**63):
                    raise ValueError("a number is out of range")
            resolve_inside(self._database.folder, self._folder)
        except (TypeError, ValueError) as error:
            raise damaged(self._database.folder, "the list of its files of codes is invalid") from error
        return segments

    def _unsaved(self, state: _State, last_id: int) -> Iterator[CodePart]:
        """Yield the codes that are not in a file; raise an error if the codes change in the meantime."""
        read_to = state.last_id
        while read_to < last_id:
            with self._database.read() as connection:  # in short transactions, in between which others can write
                connection.execute("BEGIN")
                if _has_changed(state, self._database.about_within(connection)):
                    raise _CodesChangedError
                packed, ids = self._database.codes_after(connection, read_to, state.n_bits, _AT_ONCE)
            n_new = int(np.searchsorted(ids, last_id, "right"))  # later tracks are not in this file
            if n_new == 0:
                return
            yield CodePart(ids[:n_new], packed[:n_new])
            read_to = int(ids[n_new - 1])

    def _append(self) -> bool:
        """Write new codes to a file; return False if the codes changed in the meantime."""
        with self._database.read() as connection:
            connection.execute("BEGIN")
            state = self._state(connection)
            query = "SELECT COUNT(*), MAX(id) FROM tracks WHERE id > ?"
            n_codes, last_id = connection.execute(query, (state.last_id,)).fetchone()
        is_lost = len(state.segments) < len(state.about.get(SEGMENTS, []))
        if n_codes == 0 and not is_lost:
            return True
        try:
            added = [self._write(n_codes, last_id, state, self._unsaved(state, last_id))] if n_codes else []
        except _CodesChangedError:
            return False
        return self._replace(state, [*state.segments, *added])

    def _merge(self) -> bool:
        """Merge small or outdated files; return False if there is nothing to do or another process changed the list."""
        with self._database.read() as connection:
            state = self._state(connection)
        first, last = _to_merge(state.parts)
        if first == last:
            return False
        parts, its = state.parts[first:last], state.segments[first:last]
        blocks = (block for part in parts for block in part.blocks(_AT_ONCE))
        merged = self._write(sum(part.n_codes for part in parts), its[-1].last_id, state, blocks)
        new = [*state.segments[:first], merged, *state.segments[last:]]
        return self._replace(state, new, [part.ids[part.removed] for part in parts])

    def _write(self, n_codes: int, last_id: int, state: _State, blocks: Iterable[CodePart]) -> Segment:
        name = uuid.uuid4().hex
        with atomic_write(self._path(name)) as path:
            n_codes = write_part(path, n_codes, state.n_bytes, blocks)  # fewer if tracks were erased in the meantime
        return Segment(name, n_codes, last_id)

    def _replace(self, state: _State, segments: Sequence[Segment], dropped: Sequence[NDArray[np.int64]] = ()) -> bool:
        """Replace the list of files, unless the codes changed since `state`.

        Args:
            state: what was read before the files were written.
            segments: the new list.
            dropped: ids of erased tracks that are no longer in a file.

        Returns:
            Whether it was replaced.
        """
        with self._database.write(codes_change=False) as connection:
            about = self._database.about_within(connection)
            if _has_changed(state, about):
                return False
            self._database.set_about(connection, {SEGMENTS: segments})
            connection.execute(ERASED_CODES)
            for ids in dropped:
                connection.executemany("DELETE FROM erased_codes WHERE track = ?", zip(ids.tolist(), strict=True))
        return True

    def _remove_unused(self) -> None:
        used = {self._path(one.name) for one in self._listed(self._database.about())}
        for path in self._folder.glob("*.bin"):
            if path not in used:
                with suppress(PermissionError):  # Windows does not delete a file that is mapped: the next call does
                    path.unlink(missing_ok=True)


def _to_merge(parts: Sequence[CodePart]) -> tuple[int, int]:
    """Return the first part to merge and the one after the last; equal if there is nothing to do.

    Each part has at least twice as many codes as the next one, so that there are few, and a code is copied only a few
    times.
    """
    for i, part in enumerate(parts):
        if len(part.removed) > _MOST_ERASED * len(part.ids):
            return i, i + 1
    first, n_codes = len(parts) - 1, sum(part.n_codes for part in parts[-1:])
    while first > 0 and parts[first - 1].n_codes < 2 * n_codes:
        first -= 1
        n_codes += parts[first].n_codes
    return (first, len(parts)) if first < len(parts) - 1 else (0, 0)
