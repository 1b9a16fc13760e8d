"""`CodeSegments`: the codes of an index in files that are appended and merged, so that a change never rewrites all.

DIR/codes/NAME.bin has the codes of consecutive tracks; the database lists these files. Codes of later tracks are read
from the database until `CodeSegments.save` writes them to another file. The database also lists the erased tracks whose
codes are still in a file: they are overwritten with zeros there, and dropped when the file is merged with its neighbor.
Large files are merged in a thread, while others append. All files may be deleted: they are made again from the
database.

Two locks are held by one process each: `.codes.lock` to append and erase, for a moment, and `.merge.lock` to merge.
"""

import re
import sqlite3
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
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
# More codes than this are merged in a thread: copying them takes about a tenth of a second.
_MOST_AT_ONCE = 1_000_000

# Metadata that changes with the codes, in addition to the list of their files.
_CODES_DEPEND_ON = ("model", "encoding", "n_bits", "codes")


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
    return any(about.get(key) != state.about.get(key) for key in (*_CODES_DEPEND_ON, SEGMENTS))


class CodeSegments:
    """The codes of an index with FAISS, in memory-mapped files.

    Args:
        database: database of the index.
    """

    def __init__(self, database: TrackDatabase) -> None:
        self._database = database
        self._folder = database.folder / FOLDER
        self._mapped: dict[str, CodePart] = {}
        self._merging = threading.Lock()

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

        Large files are merged in a thread, which Python waits for before it exits. If the process is killed, nothing is
        lost: a file counts when the database lists it. Other processes may read, write and search in the meantime.

        Raises:
            OSError: if a file cannot be written.
            UserError: if the index is damaged.
        """
        resolve_inside(self._database.folder, self._folder)
        is_left = False
        with self._appends():
            self._folder.mkdir(exist_ok=True)
            while not self._append():
                pass
            self._overwrite_erased()
            with self._merges() as may_merge:
                if may_merge:
                    remove_unfinished(self._folder)
                    while self._merge(_MOST_AT_ONCE):
                        pass
                    self._remove_unused()
                    is_left = self._to_merge()[1] > 0
        if is_left:
            threading.Thread(target=self._merge_large, name="merge files of codes").start()

    def clear(self) -> None:
        """Delete all files, for an index with another search backend."""
        with self._database.write(codes_change=False) as connection:
            self._database.set_about(connection, {SEGMENTS: []})
            connection.execute(ERASED_CODES)
            connection.execute("DELETE FROM erased_codes")
        if self._folder.is_dir():
            self._remove_unused()

    def _appends(self) -> AbstractContextManager[object]:
        return file_lock(self._database.folder / ".codes.lock", waiting=lambda: None)

    @contextmanager
    def _merges(self) -> Iterator[bool]:
        """Yield whether no other process or thread merges, and none will during the block."""
        if not self._merging.acquire(blocking=False):
            yield False
            return
        try:
            with file_lock(self._database.folder / ".merge.lock") as lock:
                yield lock is not None
        finally:
            self._merging.release()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def _state(self, connection: sqlite3.Connection) -> _State:
        """Read the segments; they are empty if a file is missing or has the wrong size."""
        about = self._database.about_within(connection)
        segments = self._listed(about)
        n_bytes = -(-int(about["n_bits"]) // 8)
        try:
            # Another thread may replace the attribute at any time.
            mapped = self._mapped = {
                one.name: self._mapped.get(one.name) or read_part(self._path(one.name), one.n_codes, n_bytes)
                for one in segments
            }
        except (OSError, ValueError):
            return _State(about, [], [])
        erased = np.zeros(0, np.int64)
        if segments:
            rows = connection.execute("SELECT track FROM erased_codes ORDER BY track")
            erased = np.fromiter((track for (track,) in rows), np.int64)
        return _State(about, segments, [mapped[one.name].without(erased) for one in segments])

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
        is_lost = len(state.segments) < len(self._listed(state.about))
        if n_codes == 0 and not is_lost:
            return True
        try:
            added = [self._write(n_codes, last_id, state, self._unsaved(state, last_id))] if n_codes else []
        except _CodesChangedError:
            return False
        return self._replace(state, self._listed(state.about), [*state.segments, *added])

    def _overwrite_erased(self) -> None:
        with self._database.read() as connection:
            state = self._state(connection)
        for segment, part in zip(state.segments, state.parts, strict=True):
            places = part.removed[part.codes[part.removed].any(axis=1)]
            if len(places):
                overwrite(self._path(segment.name), part, places)

    def _to_merge(self) -> tuple[_State, int, int, int]:
        """Return the state, the number of codes to merge, the first file and the one after the last; zeros for none."""
        with self._database.read() as connection:
            state = self._state(connection)
        first, last = _to_merge(state.parts)
        return state, sum(part.n_codes for part in state.parts[first:last]), first, last

    def _merge(self, at_most: int | None = None) -> bool:
        """Merge small or outdated files; return False if nothing is left to do with `at_most` codes or fewer."""
        state, n_codes, first, last = self._to_merge()
        if first == last or (at_most is not None and n_codes > at_most):
            return False
        parts, its = state.parts[first:last], state.segments[first:last]
        blocks = (block for part in parts for block in part.blocks(_AT_ONCE))
        merged = self._write(n_codes, its[-1].last_id, state, blocks)
        self._replace(state, its, [merged], [part.ids[part.removed] for part in parts])
        return True

    def _merge_large(self) -> None:
        with self._merges() as may_merge:
            if not may_merge:
                return
            try:
                while self._merge():
                    pass
                with self._appends():
                    self._overwrite_erased()  # codes that were erased after they were copied
                    self._remove_unused()
            except (OSError, UserError) as error:
                warnings.warn(f"cannot merge the files of codes in {self._folder}: {error}", stacklevel=2)

    def _write(self, n_codes: int, last_id: int, state: _State, blocks: Iterable[CodePart]) -> Segment:
        name = uuid.uuid4().hex
        with atomic_write(self._path(name)) as path:
            n_codes = write_part(path, n_codes, state.n_bytes, blocks)  # fewer if tracks were erased in the meantime
        return Segment(name, n_codes, last_id)

    def _replace(
        self,
        state: _State,
        old: Sequence[Segment],
        new: Sequence[Segment],
        dropped: Sequence[NDArray[np.int64]] = (),
    ) -> bool:
        """Replace consecutive files in the list, unless they or the kind of the codes changed since `state`.

        Args:
            state: what was read before the files were written.
            old: the files to replace. Others may follow them only if the new files have the codes of the same tracks.
            new: the files to list instead.
            dropped: ids of erased tracks that are no longer in a file.

        Returns:
            Whether they were replaced.
        """
        has_same_tracks = bool(old and new) and old[-1].last_id == new[-1].last_id
        with self._database.write(codes_change=False) as connection:
            about = self._database.about_within(connection)
            listed = self._listed(about)
            first = listed.index(old[0]) if old and old[0] in listed else 0
            last = first + len(old)
            is_same = all(about.get(key) == state.about.get(key) for key in _CODES_DEPEND_ON)
            if not is_same or listed[first:last] != list(old) or not (has_same_tracks or last == len(listed)):
                return False
            self._database.set_about(connection, {SEGMENTS: [*listed[:first], *new, *listed[last:]]})
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
