"""Keep the decisions about a video that is erased since another one took its path, until it is found again.

A moved video may be indexed after another one took its old path: cameras use the same file names again. Its tracks are
then found again, with the same numbers, since the fingerprint covers the content and all settings.
"""

import sqlite3

from facereel.retrieval.track_database import run_script

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept_names (
    stamp TEXT, number INTEGER, person TEXT, is_rejected INTEGER, path TEXT,
    PRIMARY KEY (stamp, number, person, is_rejected)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kept_pairs (
    a TEXT, a_number INTEGER, b TEXT, b_number INTEGER, same INTEGER, PRIMARY KEY (a, a_number, b, b_number)
) WITHOUT ROWID;
"""
_PAIRED = """
FROM {pairs} JOIN tracks AS first ON {first} JOIN videos AS video ON video.id = first.video
JOIN tracks AS second ON {second} JOIN videos AS other ON other.id = second.video
"""


def keep_decisions(connection: sqlite3.Connection, path: str) -> None:
    """Keep names, rejections and pairs of the tracks of a video file that is about to be erased.

    Args:
        connection: connection with an open transaction.
        path: path of the video in the index, which may be missing.
    """
    found = connection.execute(
        "SELECT id, stamp FROM videos WHERE path = ? AND content IS NOT NULL", (path,)
    ).fetchone()
    if found is None:
        return
    video, stamp = found
    run_script(connection, _SCHEMA)
    insert = "INSERT OR REPLACE INTO kept_names SELECT ?, number"
    where = "WHERE tracks.video = ?"
    query = f"{insert}, person, 0, ? FROM tracks {where} AND person IS NOT NULL"
    connection.execute(query, (stamp, path, video))
    if _has_table(connection, "rejected"):
        query = f"{insert}, rejected.person, 1, ? FROM tracks JOIN rejected ON rejected.track = tracks.id {where}"
        connection.execute(query, (stamp, path, video))
        paired = _PAIRED.format(pairs="pairs", first="first.id = a", second="second.id = b")
        query = (
            "INSERT OR REPLACE INTO kept_pairs "
            f"SELECT video.stamp, first.number, other.stamp, second.number, same {paired}"
            "WHERE ?1 IN (first.video, second.video)"
        )
        connection.execute(query, (video,))


def restore_decisions(connection: sqlite3.Connection, video: int, stamp: str) -> None:
    """Restore what was kept of a video that was added again.

    Args:
        connection: connection with an open transaction, with the tracks of the video.
        video: id of the video.
        stamp: fingerprint of the video.
    """
    if not _has_table(connection, "kept_names"):
        return
    kept = "FROM kept_names WHERE stamp = ?1 AND number = tracks.number AND is_rejected = 0"
    query = f"UPDATE tracks SET person = (SELECT person {kept}) WHERE video = ?2 AND EXISTS (SELECT 1 {kept})"
    connection.execute(query, (stamp, video))
    if _has_table(connection, "rejected"):
        query = (
            "INSERT OR IGNORE INTO rejected SELECT tracks.id, kept_names.person FROM kept_names JOIN tracks "
            "ON tracks.number = kept_names.number WHERE stamp = ? AND video = ? AND is_rejected = 1"
        )
        connection.execute(query, (stamp, video))
        paired = _PAIRED.format(pairs="kept_pairs", first="first.number = a_number", second="second.number = b_number")
        query = (
            f"INSERT OR IGNORE INTO pairs SELECT MIN(first.id, second.id), MAX(first.id, second.id), same {paired}"
            "WHERE video.stamp = a AND other.stamp = b AND ? IN (a, b)"
        )
        connection.execute(query, (stamp,))
    connection.execute("DELETE FROM kept_names WHERE stamp = ?", (stamp,))
    known = "IN (SELECT stamp FROM videos)"
    connection.execute(f"DELETE FROM kept_pairs WHERE ? IN (a, b) AND a {known} AND b {known}", (stamp,))


def is_kept(connection: sqlite3.Connection, person: str) -> bool:
    """Return whether a track with a person's name is kept.

    Args:
        connection: open connection.
        person: name of the person.
    """
    query = "SELECT 1 FROM kept_names WHERE person = ? AND is_rejected = 0"
    return _has_table(connection, "kept_names") and connection.execute(query, (person,)).fetchone() is not None


def forget_kept(connection: sqlite3.Connection, *, person: str | None = None, path: str | None = None) -> None:
    """Delete what was kept of a person, or of the videos that are or were at a path.

    Args:
        connection: connection with an open transaction.
        person: name of the person.
        path: path of a video.
    """
    if not _has_table(connection, "kept_names"):
        return
    query = "SELECT stamp, number FROM kept_names WHERE person = ?1 OR path = ?2"
    for stamp, number in connection.execute(query, (person, path)).fetchall():
        query = "DELETE FROM kept_pairs WHERE (a = ?1 AND a_number = ?2) OR (b = ?1 AND b_number = ?2)"
        connection.execute(query, (stamp, number))
    connection.execute("DELETE FROM kept_names WHERE person = ? OR path = ?", (person, path))
    query = "DELETE FROM kept_pairs WHERE EXISTS (SELECT 1 FROM videos WHERE path = ? AND stamp IN (a, b))"
    connection.execute(query, (path,))


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None
