"""The SQLite database of an index of tracks: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facereel.errors import UserError

DATABASE = "index.sqlite"

# Another process writes one video at a time: whoever waits longer than so many seconds waits for nothing.
PATIENCE_S = 60.0

SCHEMA = """
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
CREATE INDEX tracks_by_person ON tracks (person);
CREATE TABLE erased (track INTEGER PRIMARY KEY);
"""

# Which tracks Milvus does not know of yet, or still knows of; kept where the codes are there. An id comes once only.
PENDING = """
CREATE TABLE pending (track INTEGER PRIMARY KEY);
CREATE TRIGGER added AFTER INSERT ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (new.id); END;
CREATE TRIGGER gone AFTER DELETE ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (old.id); END;
CREATE TRIGGER moved AFTER UPDATE OF path, date ON videos BEGIN
    INSERT OR IGNORE INTO pending SELECT id FROM tracks WHERE video = new.id;
END;
"""
NOT_PENDING = "DROP TRIGGER added; DROP TRIGGER gone; DROP TRIGGER moved; DROP TABLE pending;"


def connect(folder: Path) -> sqlite3.Connection:
    """Open an index's database; it is made if it is absent."""
    database = sqlite3.connect(folder / DATABASE, timeout=PATIENCE_S, isolation_level=None)
    database.execute("PRAGMA trusted_schema = OFF")  # what a stranger's schema calls must be harmless
    database.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten, not only forgotten
    return database


def erase(database: sqlite3.Connection, condition: str, value: str) -> int:
    """Delete tracks, and note whose pictures are to go."""
    database.execute(f"INSERT INTO erased SELECT id FROM tracks WHERE {condition}", (value,))
    return database.execute(f"DELETE FROM tracks WHERE {condition}", (value,)).rowcount


def damaged(folder: Path, what: str) -> UserError:
    """What is said of an index that holds what was never written."""
    return UserError(f"the index in {folder} is damaged: {what}; index the tracks again")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say in a UserError what SQLite complains of."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise UserError(f"the disk is full: {folder / DATABASE} is as it was before this video") from error
        if "locked" in str(error):
            raise UserError(f"another process is writing to {folder}, {PATIENCE_S:.0f} s long: try again") from error
        raise UserError(f"the index in {folder} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise damaged(folder, str(error)) from error
