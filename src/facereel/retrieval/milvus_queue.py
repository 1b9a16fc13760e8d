"""Which tracks of an index Milvus was not told of yet.

The database notes a change of a track in the change's own transaction, so that nothing is lost.
"""

import numpy as np

from facereel.retrieval.backends.milvus_collection import MilvusCollection
from facereel.retrieval.track_database import TrackDatabase

# Tracks that Milvus is told of at once, while no other process may write.
_PUSHED_AT_ONCE = 20_000

_ADD_ALL = "INSERT OR IGNORE INTO pending SELECT id FROM tracks;"

# Scripts that start and stop noting changes. All tracks are noted at the start, and each only once.
START = f"""
CREATE TABLE pending (track INTEGER PRIMARY KEY);
CREATE TRIGGER added AFTER INSERT ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (new.id); END;
CREATE TRIGGER gone AFTER DELETE ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (old.id); END;
CREATE TRIGGER moved AFTER UPDATE OF path, date ON videos BEGIN
    INSERT OR IGNORE INTO pending SELECT id FROM tracks WHERE video = new.id;
END;
{_ADD_ALL}
"""
STOP = "DROP TRIGGER added; DROP TRIGGER gone; DROP TRIGGER moved; DROP TABLE pending;"


def push(database: TrackDatabase, collection: MilvusCollection) -> None:
    """Tell Milvus which tracks were added, changed and erased. If it is killed, the next call tells it again."""
    with database.read() as connection:
        is_behind = connection.execute("SELECT 1 FROM pending").fetchone()
    while is_behind:
        # No other process may write, so that none adds a track of which it does not know yet that it was erased.
        with database.write(codes_change=False) as connection:
            query = (
                "SELECT track, tracks.id, code, path, date FROM (SELECT track FROM pending ORDER BY track LIMIT ?) "
                "LEFT JOIN tracks ON tracks.id = track LEFT JOIN videos ON videos.id = video"
            )
            rows = connection.execute(query, (_PUSHED_AT_ONCE,)).fetchall()
            stored = [row for row in rows if row[1] is not None]
            packed, ids = database.unpack([row[1:3] for row in stored], collection.n_bits)
            collection.upsert(packed, ids, [row[3:] for row in stored])
            collection.delete(np.array([row[0] for row in rows if row[1] is None], np.int64))
            connection.executemany("DELETE FROM pending WHERE track = ?", [row[:1] for row in rows])
        is_behind = len(rows) == _PUSHED_AT_ONCE


def refill(database: TrackDatabase, collection: MilvusCollection) -> None:
    """Fill the collection again if it has not as many codes as the database: it may have been emptied, or lost."""
    with database.write(codes_change=False) as connection:
        (n_tracks,) = connection.execute("SELECT COUNT(*) FROM tracks").fetchone()
        is_complete = n_tracks == collection.count("")
        if not is_complete:
            collection.clear()
            connection.execute(_ADD_ALL)
    if not is_complete:
        push(database, collection)
