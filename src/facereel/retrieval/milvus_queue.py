"""Queue of tracks of an index that still have to be sent to Milvus.

The database records a change of a track in the same transaction as the change, so that nothing is lost.
"""

import numpy as np

from facereel.retrieval.backends.milvus_collection import MilvusCollection
from facereel.retrieval.track_database import TrackDatabase

# Number of tracks that are sent to Milvus at a time, while no other process may write.
_PUSHED_AT_ONCE = 20_000

# Record all tracks.
ADD_ALL = "INSERT OR IGNORE INTO pending SELECT id FROM tracks;"

# Scripts that start and stop recording changes. At the start all tracks are recorded, each only once.
START = f"""
CREATE TABLE pending (track INTEGER PRIMARY KEY);
CREATE TRIGGER added AFTER INSERT ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (new.id); END;
CREATE TRIGGER gone AFTER DELETE ON tracks BEGIN INSERT OR IGNORE INTO pending VALUES (old.id); END;
CREATE TRIGGER moved AFTER UPDATE OF path, date ON videos BEGIN
    INSERT OR IGNORE INTO pending SELECT id FROM tracks WHERE video = new.id;
END;
{ADD_ALL}
"""
STOP = "DROP TRIGGER added; DROP TRIGGER gone; DROP TRIGGER moved; DROP TABLE pending;"


def push(database: TrackDatabase, collection: MilvusCollection) -> None:
    """Send added, changed and erased tracks to Milvus. If this is killed, the next call sends them again.

    Args:
        database: database of the index.
        collection: collection with the codes.
    """
    with database.read() as connection:
        is_behind = connection.execute("SELECT 1 FROM pending").fetchone()
    while is_behind:
        # No other process may write in the meantime: it might add a track that was just erased.
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
    """Fill the collection again if its number of codes differs from the database, as after a loss of data.

    Args:
        database: database of the index.
        collection: collection with the codes.
    """
    with database.write(codes_change=False) as connection:
        (n_tracks,) = connection.execute("SELECT COUNT(*) FROM tracks").fetchone()
        is_complete = n_tracks == collection.count("")
        if not is_complete:
            collection.clear()
            connection.execute(ADD_ALL)
    if not is_complete:
        push(database, collection)
