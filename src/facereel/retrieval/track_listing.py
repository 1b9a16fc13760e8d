"""`TrackListing`: pages of the tracks, videos, people and groups of an index, which may have millions of tracks."""

import json
from typing import NamedTuple, get_type_hints

from facereel.retrieval.track_database import TrackDatabase, damaged
from facereel.retrieval.track_records import Track, is_video_file
from facereel.video.content import is_gone

_COLUMNS = "tracks.id, videos.path, number, start_s, end_s, person, cluster, date, source, content"

# SQLite stores any type of value in any column.
_TYPES = tuple(get_type_hints(Track).values())

# The largest integer of SQLite.
_LARGEST = 2**63 - 1


class VideoEntry(NamedTuple):
    """A video in a list."""

    path: str
    """Path of the video file, or name of a source in a data set."""
    date: float | None
    """Modification time of the video file, in seconds since 1970."""
    n_tracks: int
    is_absent: bool
    """Whether the video is a file that is missing, or on a drive that is not connected."""


class PersonEntry(NamedTuple):
    """A named person in a list."""

    name: str
    n_tracks: int
    n_videos: int


class GroupEntry(NamedTuple):
    """A group in a list."""

    number: int
    n_tracks: int
    n_videos: int
    seconds: float
    """Total duration of the tracks in seconds; tracks of data sets have no duration."""
    longest: int
    """Id of the longest track."""
    names: list[str]
    """Names of the tracks, the most frequent first."""
    n_unnamed: int


class TrackListing:
    """Read an index page by page: each method returns the next entries after a given one.

    Args:
        database: database of the index.
    """

    def __init__(self, database: TrackDatabase) -> None:
        self._database = database

    def tracks(
        self,
        after: int,
        limit: int,
        *,
        person: str | None = None,
        cluster: int | None = None,
        video: str | None = None,
    ) -> list[Track]:
        """Return tracks in ascending order of id.

        Args:
            after: the id before the first one.
            limit: maximum number of tracks.
            person: only tracks with this name.
            cluster: only tracks of this group.
            video: only tracks of the video with this path.
        """
        values = {"person": person, "cluster": cluster, "path": video}
        columns = {"person": "person", "cluster": "cluster", "path": "videos.path"}
        conditions = [f"{columns[name]} = :{name}" for name, value in values.items() if value is not None]
        chosen = f"{' AND '.join(['tracks.id > :after', *conditions])} ORDER BY tracks.id LIMIT :limit"
        return select_tracks(self._database, "tracks", chosen, **values, after=after, limit=limit)

    def videos(self, after: str, limit: int) -> list[VideoEntry]:
        """Return videos in the order of their paths.

        Args:
            after: the path before the first one.
            limit: maximum number of videos.
        """
        query = """
            SELECT path, date, source, (SELECT COUNT(*) FROM tracks WHERE video = videos.id)
            FROM videos WHERE path > ? ORDER BY path LIMIT ?
        """
        with self._database.read() as connection:
            rows = connection.execute(query, (after, limit)).fetchall()
        return [
            VideoEntry(path, date, n_tracks, is_video_file(source) and is_gone(path))
            for path, date, source, n_tracks in rows
        ]

    def n_videos(self) -> int:
        """Return the number of videos, including those without tracks."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM videos").fetchone()[0])

    def people(self, after: str, limit: int) -> list[PersonEntry]:
        """Return the people with a name in the order of their names.

        Args:
            after: the name before the first one.
            limit: maximum number of people.
        """
        query = """
            SELECT person, COUNT(*), COUNT(DISTINCT video)
            FROM tracks WHERE person > ? GROUP BY person ORDER BY person LIMIT ?
        """
        with self._database.read() as connection:
            rows = connection.execute(query, (after, limit)).fetchall()
        if not all(isinstance(name, str) for name, *_ in rows):
            raise damaged(self._database.folder, "the name of a person has another type")
        return [PersonEntry(*row) for row in rows]

    def groups(self, after: int, limit: int, last: int | None = None) -> list[GroupEntry]:
        """Return groups in the order of their numbers.

        Args:
            after: the number before the first one.
            limit: maximum number of groups.
            last: the last number; None for no limit.
        """
        # SQLite takes the id from the row that has the maximum.
        query = """
            SELECT cluster, COUNT(*), COUNT(DISTINCT video), SUM(COALESCE(end_s - start_s, 0)), id,
                   MAX(COALESCE(end_s - start_s, 0)), COUNT(*) - COUNT(person)
            FROM tracks WHERE cluster > ? AND cluster <= ? GROUP BY cluster ORDER BY cluster LIMIT ?
        """
        names_query = """
            SELECT cluster, person FROM tracks
            WHERE cluster IN (SELECT value FROM json_each(?)) AND person IS NOT NULL
            GROUP BY cluster, person ORDER BY COUNT(*) DESC, person
        """
        with self._database.read() as connection:
            connection.execute("BEGIN")
            rows = connection.execute(query, (after, _LARGEST if last is None else last, limit)).fetchall()
            names: dict[int, list[str]] = {row[0]: [] for row in rows}
            for cluster, person in connection.execute(names_query, (json.dumps(list(names)),)):
                names[cluster].append(person)
        return [
            GroupEntry(number, n_tracks, n_videos, seconds, longest, names[number], n_unnamed)
            for number, n_tracks, n_videos, seconds, longest, _, n_unnamed in rows
        ]

    def group(self, number: int) -> GroupEntry | None:
        """Return a group, or None if there is no group with this number."""
        found = self.groups(number - 1, 1, last=number)
        return found[0] if found else None

    def ids_of_group(self, number: int) -> list[int]:
        """Return the ids of the tracks of a group, in ascending order."""
        with self._database.read() as connection:
            query = "SELECT id FROM tracks WHERE cluster = ? ORDER BY id"
            return [id_ for (id_,) in connection.execute(query, (number,))]


def select_tracks(database: TrackDatabase, source: str, chosen: str, **values: str | int | None) -> list[Track]:
    """Read tracks by an SQL query.

    Args:
        database: database of an index.
        source: the table tracks, or a join with it.
        chosen: condition and order.
        values: values of the named parameters.

    Returns:
        The tracks.

    Raises:
        UserError: if the index is damaged.
    """
    query = f"SELECT {_COLUMNS} FROM {source} JOIN videos ON videos.id = video WHERE {chosen}"
    with database.read() as connection:
        found = connection.execute(query, values).fetchall()
    rows = [(*row[:-2], database.whole_source(row[-2]), database.thumbnails.path(row[0]), row[-1]) for row in found]
    tracks = [Track(*row) for row in rows]
    for track in tracks:
        if not all(isinstance(value, types) for value, types in zip(track, _TYPES, strict=True)):
            raise damaged(database.folder, f"a value of track {track.id} has another type")
    return tracks
