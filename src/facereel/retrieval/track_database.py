"""`TrackDatabase`: the SQLite database of an index of tracks, with its tables, transactions and error messages."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.retrieval.code_index import MOST_BITS
from facereel.retrieval.thumbnails import Thumbnails
from facereel.retrieval.track_records import VideoRecord, Within
from facereel.storage.untrusted import parse_json

DATABASE = "index.sqlite"

# Increase it when older indexes can no longer be read.
FORMAT = 2

# Another process writes one video at a time, which takes less than this number of seconds.
PATIENCE_S = 60.0

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE videos (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    stamp TEXT NOT NULL,
    date REAL,
    source TEXT NOT NULL,
    content TEXT
);
CREATE TABLE tracks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video INTEGER NOT NULL REFERENCES videos (id),
    number INTEGER NOT NULL,
    start_s REAL,
    end_s REAL,
    person TEXT,
    cluster INTEGER,
    code BLOB NOT NULL,
    UNIQUE (video, number)
);
CREATE INDEX videos_by_date ON videos (date);
CREATE INDEX tracks_by_person ON tracks (person) WHERE person IS NOT NULL;
CREATE INDEX tracks_by_cluster ON tracks (cluster) WHERE cluster IS NOT NULL;
CREATE TABLE erased (track INTEGER PRIMARY KEY);
"""

# Erased tracks whose codes may be in a file, see `CodeSegments`. Indexes of earlier versions do not have this table.
ERASED_CODES = "CREATE TABLE IF NOT EXISTS erased_codes (track INTEGER PRIMARY KEY)"

# Name of the metadata that lists the files of codes, see `CodeSegments`.
SEGMENTS = "segments"

NEXT_GENERATION = "UPDATE about SET value = value + 1 WHERE name = 'generation'"


class TrackDatabase:
    """The file DIR/index.sqlite. Each transaction uses a separate connection, so that threads may share an object.

    Args:
        folder: folder of the index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._absolute = folder.absolute()
        self.thumbnails = Thumbnails(folder)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for reading.

        Raises:
            UserError: if SQLite fails.
        """
        try:
            with closing(connect(self.folder)) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise UserError(f"the disk is full: {self.folder / DATABASE} is unchanged by this video") from error
            if "locked" in str(error):
                raise UserError(
                    f"another process has been writing to {self.folder} for {PATIENCE_S:.0f} s: try again later"
                ) from error
            raise UserError(f"the index in {self.folder} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise damaged(self.folder, str(error)) from error

    @contextmanager
    def write(self, codes_change: bool = True) -> Iterator[sqlite3.Connection]:
        """Yield a connection for an atomic transaction, and delete thumbnails of erased tracks after it.

        Args:
            codes_change: increase the generation, so that other processes load the codes again.

        Raises:
            UserError: if SQLite fails.
        """
        with self.read() as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
                if codes_change:
                    connection.execute(NEXT_GENERATION)
            self._remove_erased(connection)

    def _remove_erased(self, connection: sqlite3.Connection) -> None:
        """Delete the thumbnails of erased tracks, including those that a killed process left."""
        erased = connection.execute("SELECT track FROM erased").fetchall()
        for (track,) in erased:
            self.thumbnails.remove(track)
        if erased:
            with connection:
                connection.execute("BEGIN IMMEDIATE")  # otherwise each row would be a transaction
                connection.executemany("DELETE FROM erased WHERE track = ?", erased)

    def about(self) -> dict[str, Any]:
        """Return the metadata of the index."""
        with self.read() as connection:
            return self.about_within(connection)

    def about_within(self, connection: sqlite3.Connection) -> dict[str, Any]:
        """Return the metadata of the index within the connection's transaction.

        Args:
            connection: open connection.

        Raises:
            UserError: if the metadata is damaged.
        """
        try:
            about = {name: parse_json(value) for name, value in connection.execute("SELECT name, value FROM about")}
        except (ValueError, TypeError) as error:
            raise damaged(self.folder, "its metadata cannot be read") from error
        if about.get("format") != FORMAT:
            raise UserError(
                f"the index in {self.folder} has format {about.get('format')}, but this version of facereel reads "
                f"format {FORMAT}: index the tracks again into a new folder"
            )
        if type(about.get("generation")) is not int:
            raise damaged(self.folder, "generation is not a number")
        if type(about.get("n_bits")) is not int or not 0 < about["n_bits"] <= MOST_BITS:
            raise damaged(self.folder, "n_bits is out of range")
        if type(about.get("model")) is not str:
            raise damaged(self.folder, "the hash of its model is missing or invalid")
        return about

    def set_about(self, connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
        """Change metadata of the index.

        Args:
            connection: connection with an open transaction.
            values: new values by name.
        """
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def with_relative_source(self, video: VideoRecord) -> VideoRecord:
        """Make the source relative if it is in the index's folder, so that the folder can be moved.

        Args:
            video: metadata of a video.

        Returns:
            The metadata to store.
        """
        folder, source = self.folder.absolute(), Path(video.source)
        return video._replace(source=str(source.relative_to(folder))) if source.is_relative_to(folder) else video

    def whole_source(self, source: Any) -> Any:
        """Return the absolute path of a stored source; a damaged index may have a value of another type.

        Args:
            source: the stored value.
        """
        return str(self._absolute / source) if isinstance(source, str) else source

    def codes(self) -> tuple[int, NDArray[np.uint8], NDArray[np.int64]]:
        """Read all codes.

        Returns:
            The generation, (N, ceil(K / 8)) uint8 packed codes, and (N,) int64 ids in ascending order.
        """
        with self.read() as connection:
            connection.execute("BEGIN")
            about = self.about_within(connection)
            return about["generation"], *self.codes_after(connection, -1, about["n_bits"])

    def codes_after(
        self, connection: sqlite3.Connection, after: int, n_bits: int, most: int = -1
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read codes within the connection's transaction.

        Args:
            connection: open connection.
            after: read only tracks with a larger id.
            n_bits: K, the length of a code in bits.
            most: maximum number of codes; -1 for no limit.

        Returns:
            (N, ceil(K / 8)) uint8 packed codes and (N,) int64 ids in ascending order.
        """
        query = "SELECT id, code FROM tracks WHERE id > ? ORDER BY id LIMIT ?"
        return self.unpack(connection.execute(query, (after, most)).fetchall(), n_bits)

    def ids_within(self, within: Within) -> NDArray[np.int64]:
        """Return the (N,) int64 ids of the tracks of some videos."""
        conditions: list[str] = []
        values: list[str | float] = []
        if within.folder is not None:
            folder = within.folder.rstrip("/")
            conditions += ["path > ?", "path < ?"]  # this uses SQLite's index; 0 is the character after the slash
            values += [f"{folder}/", f"{folder}0"]
        for bound, comparison in ((within.since, ">="), (within.until, "<=")):
            if bound is not None:
                conditions.append(f"date {comparison} ?")
                values.append(bound)
        videos = f"SELECT id FROM videos WHERE {' AND '.join(conditions)}"
        with self.read() as connection:
            found = connection.execute(f"SELECT id FROM tracks WHERE video IN ({videos})", values)
            return np.fromiter((track for (track,) in found), np.int64)

    def unpack(self, rows: list[tuple[int, bytes]], n_bits: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Convert rows of ids and codes to arrays.

        Args:
            rows: id and code of each track.
            n_bits: K, the length of a code in bits.

        Returns:
            (N, ceil(K / 8)) uint8 packed codes and (N,) int64 ids.

        Raises:
            UserError: if a code has another length.
        """
        width = -(-n_bits // 8)
        for track, code in rows:
            if type(code) is not bytes or len(code) != width or track < 0:
                raise damaged(self.folder, f"the code of track {track} does not have {n_bits} bits")
        packed = np.frombuffer(b"".join(code for _, code in rows), np.uint8).reshape(len(rows), width)
        return packed, np.array([track for track, _ in rows], np.int64)


def has_tables(connection: sqlite3.Connection) -> bool:
    """Return whether `create_tables` was called."""
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def create_tables(connection: sqlite3.Connection, about: Mapping[str, Any]) -> None:
    """Create the tables within the connection's transaction.

    Args:
        connection: connection with an open transaction.
        about: metadata of the index.
    """
    run_script(connection, _SCHEMA)
    connection.execute(ERASED_CODES)
    if about.get("features"):
        connection.execute("ALTER TABLE tracks ADD COLUMN feature BLOB")
    values = [(name, json.dumps(value)) for name, value in {"format": FORMAT, "generation": 0, **about}.items()]
    connection.executemany("INSERT INTO about VALUES (?, ?)", values)


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute statements within the connection's transaction, which `executescript` would end.

    Args:
        connection: connection with an open transaction.
        script: SQL statements.
    """
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def connect(folder: Path) -> sqlite3.Connection:
    """Return a connection to the database of an index, which is created if it does not exist."""
    connection = sqlite3.connect(folder / DATABASE, timeout=PATIENCE_S, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")  # an untrusted schema may only call harmless functions
    connection.execute("PRAGMA secure_delete = ON")  # erased data is overwritten
    return connection


def erase_tracks(connection: sqlite3.Connection, condition: str, value: str) -> int:
    """Delete tracks and schedule their thumbnails for deletion.

    Args:
        connection: connection with an open transaction.
        condition: SQL condition with one parameter.
        value: value of the parameter.

    Returns:
        The number of deleted tracks.
    """
    connection.execute(ERASED_CODES)
    for table in ("erased", "erased_codes"):
        connection.execute(f"INSERT INTO {table} SELECT id FROM tracks WHERE {condition}", (value,))
    return connection.execute(f"DELETE FROM tracks WHERE {condition}", (value,)).rowcount


def erase_video(connection: sqlite3.Connection, path: str) -> int:
    """Delete a video and its tracks.

    Args:
        connection: connection with an open transaction.
        path: path of the video in the index.

    Returns:
        The number of deleted tracks.
    """
    n_tracks = erase_tracks(connection, "video IN (SELECT id FROM videos WHERE path = ?)", path)
    connection.execute("DELETE FROM videos WHERE path = ?", (path,))
    return n_tracks


def damaged(folder: Path, what: str) -> UserError:
    """Return the error for an index with content that facereel never writes."""
    return UserError(f"the index in {folder} is damaged: {what}; index the tracks again")
