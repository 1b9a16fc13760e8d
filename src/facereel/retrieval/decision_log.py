"""The undo log of the decisions in an index, and the links between tracks that merges make."""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from facereel.retrieval.track_database import run_script

# Number of decisions that can be undone.
_HISTORY = 1000
# These tables are created by the first decision.
SCHEMA = """
CREATE TABLE IF NOT EXISTS rejected (track INTEGER, person TEXT, PRIMARY KEY (track, person)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (a INTEGER, b INTEGER, same INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (id INTEGER PRIMARY KEY AUTOINCREMENT, person TEXT NOT NULL, crop BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL, what TEXT, before TEXT);
CREATE INDEX IF NOT EXISTS pairs_by_b ON pairs (b);
CREATE INDEX IF NOT EXISTS tracks_by_cluster ON tracks (cluster) WHERE cluster IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS forget AFTER DELETE ON tracks BEGIN
    DELETE FROM rejected WHERE track = old.id;
    DELETE FROM pairs WHERE a = old.id OR b = old.id;
END;
"""
CHOSEN = "IN (SELECT value FROM json_each(?))"
PAIRS_OF = f"SELECT a, b, same FROM pairs WHERE a {CHOSEN} OR b {CHOSEN}"


def version_of(connection: sqlite3.Connection) -> tuple[Any, ...]:
    """Return values that differ after each decision and each undo.

    Args:
        connection: open connection.
    """
    run_script(connection, SCHEMA)
    (last,) = connection.execute("SELECT MAX(id) FROM history").fetchone()
    return last, *connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'history'").fetchall()


class Change:
    """A decision that is being made.

    Args:
        connection: connection with an open transaction.
        clustering: number of times that groups were made.
    """

    def __init__(self, connection: sqlite3.Connection, clustering: int) -> None:
        self.connection, self._clustering = connection, clustering
        self._what = ""
        self.before: dict[str, Any] = {}
        """The state that `undo` restores."""

    def record(self, what: str, tracks: Sequence[int]) -> None:
        """Record the state of tracks before they change.

        Args:
            what: the decision in words.
            tracks: ids of all tracks that it may change.
        """
        chosen, execute = json.dumps(list(tracks)), self.connection.execute
        self._what = what
        self.before = {
            "clustering": self._clustering,
            "tracks": list(execute(f"SELECT id, person, cluster FROM tracks WHERE id {CHOSEN}", (chosen,))),
            "rejected": list(execute(f"SELECT track, person FROM rejected WHERE track {CHOSEN}", (chosen,))),
            "pairs": list(execute(PAIRS_OF, (chosen, chosen))),
            "photo": execute("SELECT MAX(id) FROM photos").fetchone()[0] or 0,
        }

    def save(self) -> None:
        """Add the decision to the undo log."""
        query = "INSERT INTO history (time, what, before) VALUES (?, ?, ?)"
        values = time.time(), self._what, json.dumps(self.before)
        last = self.connection.execute(query, values).lastrowid or 0
        self.connection.execute("DELETE FROM history WHERE id <= ?", (last - _HISTORY,))


def _components(links: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Return the sets of tracks that are linked to each other, directly or through others."""
    part_of: dict[int, set[int]] = {}
    for a, b in links:
        small, large = sorted((part_of.get(a, {a}), part_of.get(b, {b})), key=len)
        if small is not large:
            large |= small
            part_of |= dict.fromkeys(small | {a, b}, large)
    return list({id(part): part for part in part_of.values()}.values())


def add_pairs(connection: sqlite3.Connection, pairs: Sequence[tuple[int, int]], *, same: bool) -> None:
    """Add pairs of tracks that show the same person, or two people.

    Args:
        connection: connection with an open transaction.
        pairs: pairs of ids, in any order; they replace what was known of the same tracks.
        same: which of the two.
    """
    rows = [(*sorted(pair), int(same)) for pair in pairs]
    connection.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", rows)


def unlink(connection: sqlite3.Connection, tracks: Sequence[int], rest: Sequence[int]) -> None:
    """Remove the links from merges between tracks and the rest of their group. Either part stays linked.

    Args:
        connection: connection with an open transaction.
        tracks: ids of tracks.
        rest: ids of the others.
    """
    chosen, others = set(tracks), set(rest)
    both = json.dumps([*tracks, *rest])
    query = f"SELECT a, b FROM pairs WHERE same = 1 AND a {CHOSEN} AND b {CHOSEN}"
    links = connection.execute(query, (both, both)).fetchall()
    for linked in _components(links):
        parts = sorted(linked & chosen), sorted(linked & others)
        if all(parts):
            crossing = [(a, b) for a, b in links if a in linked and (a in chosen) != (b in chosen)]
            connection.executemany("DELETE FROM pairs WHERE a = ? AND b = ?", crossing)
            for part in parts:
                add_pairs(connection, [(part[0], other) for other in part[1:]], same=True)
