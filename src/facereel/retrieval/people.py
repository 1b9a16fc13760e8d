"""`People`: who is who in an index, as its user decided, with an undo log.

A name on a track is a decision. So is "not this person", which is never proposed again, and so are pairs of tracks that
show the same person or two people. Clustering respects all of them. They are stored by track id, so they remain valid
when codes are fitted again or tracks are encoded by another model.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.retrieval.decision_log import CHOSEN, PAIRS_OF, SCHEMA, Change, add_pairs, unlink
from facereel.retrieval.kept_decisions import is_kept
from facereel.retrieval.track_database import TrackDatabase, damaged, run_script
from facereel.storage.untrusted import parse_json
from facereel.system.text import plural

# Number of tracks among which the most typical one of a group is chosen.
_SAMPLE = 1000
# Photos of one person; each search for the person encodes them.
MOST_PHOTOS = 50


class Decision(NamedTuple):
    """An entry of the undo log."""

    seconds: float
    """When it was made, in seconds since 1970."""
    what: str
    """What was decided, in words."""


class People:
    """Decisions about the people of an index. Each is one transaction, and `undo` takes the last one back.

    Args:
        database: database of the index.
        vectors: returns the (N, D) unit vectors of tracks by id; their cosine decreases with the distance.
    """

    def __init__(self, database: TrackDatabase, vectors: Callable[[Sequence[int]], NDArray[np.float64]]) -> None:
        self._database, self._vectors = database, vectors

    def name(self, tracks: Sequence[int], person: str | None) -> None:
        """Set the person of tracks.

        Args:
            tracks: ids of the tracks.
            person: name of the person; None removes the name.
        """
        if not tracks:
            return
        what = f"{_tracks(tracks)} named {person}" if person else f"name removed from {_tracks(tracks)}"
        with self._change() as change:
            self._name(change, what, tracks, person)

    def confirm(self, tracks: Sequence[int], person: str, photos: Sequence[bytes]) -> None:
        """Set the person of tracks and add photos of the person, in one decision.

        Args:
            tracks: ids of the tracks.
            person: name of the person.
            photos: JPEG files as for `add_photo`.

        Raises:
            UserError: if the person would have more than `MOST_PHOTOS` photos.
        """
        parts = [*([_tracks(tracks)] if tracks else []), *([plural(len(photos), "photo")] if photos else [])]
        with self._change() as change:
            self._name(change, f"{' and '.join(parts)} named {person}", tracks, person)
            self._add_photos(change.connection, person, photos)

    def reject(self, tracks: Sequence[int], person: str) -> None:
        """Record that tracks do not show a person. They lose this name, and leave groups that contain the person.

        Args:
            tracks: ids of the tracks.
            person: name of the person.
        """
        if not tracks:
            return
        with self._change() as change:
            connection, chosen = change.connection, json.dumps(list(tracks))
            rest = self._rest_with(tracks, person)
            change.record(f"{_tracks(tracks)} not {person}", [*tracks, *rest])
            connection.executemany(
                "INSERT OR IGNORE INTO rejected VALUES (?, ?)", [(track, person) for track in tracks]
            )
            query = f"UPDATE tracks SET person = NULL WHERE person = ? AND id {CHOSEN}"
            connection.execute(query, (person, chosen))
            # Tracks that leave one group stay together: only the person was rejected.
            query = (
                f"SELECT DISTINCT cluster FROM tracks WHERE id {CHOSEN} "
                "AND cluster IN (SELECT cluster FROM tracks WHERE person = ?)"
            )
            for (cluster,) in connection.execute(query, (chosen, person)).fetchall():
                self._move(connection, f"id {CHOSEN} AND cluster = ?", (chosen, cluster))
            unlink(connection, tracks, rest)

    def merge(self, numbers: Sequence[int]) -> int:
        """Merge groups into the one with the smallest number. Names are kept.

        Args:
            numbers: numbers of at least two groups.

        Returns:
            The number of the merged group.

        Raises:
            UserError: if a group does not exist, or one group contains a person that another one is not.
        """
        with self._change() as change:
            groups = self._groups(numbers)
            tracks = [track for its in groups.values() for track in its]
            self._check_merge(tracks)
            change.record(f"groups {', '.join(map(str, groups))} merged", tracks)
            chosen = json.dumps(tracks)
            # All are linked: if only one track of each group was, linked tracks would be too far from the others. But
            # of a group with two people, only the tracks without a name are.
            names = {track: person for track, person, _ in change.before["tracks"]}
            n_people = len(set(names.values()) - {None})
            linked = tracks if n_people < 2 else [track for track in tracks if names[track] is None]
            links = [(linked[0], other) for other in linked[1:]]
            query = f"DELETE FROM pairs WHERE same = 0 AND a {CHOSEN} AND b {CHOSEN}"
            change.connection.execute(query, (chosen, chosen))
            add_pairs(change.connection, links, same=True)
            change.connection.execute(f"UPDATE tracks SET cluster = ? WHERE id {CHOSEN}", (min(groups), chosen))
        return min(groups)

    def split(self, tracks: Sequence[int]) -> list[int]:
        """Take tracks out of their groups, since they show another person than the rest of the group.

        Args:
            tracks: ids of tracks; those of one group form one new group.

        Returns:
            The numbers of the new groups.

        Raises:
            UserError: if a track has no group, or nothing of a group is left.
        """
        with self._change() as change:
            by_group = self._groups_of(tracks)
            rests = {number: sorted(set(self._groups([number])[number]) - set(its)) for number, its in by_group.items()}
            for number, rest in rests.items():
                if not rest:
                    raise UserError(f"all tracks of group {number} are given: leave at least one in it")
            change.record(f"{_tracks(tracks)} split off", [*tracks, *chain(*rests.values())])
            for number, its in by_group.items():
                unlink(change.connection, its, rests[number])
                typical = self._typical(rests[number])
                add_pairs(change.connection, [(track, typical) for track in its], same=False)
            return [self._move(change.connection, f"id {CHOSEN}", (json.dumps(its),)) for its in by_group.values()]

    def differ(self, first: int, second: int) -> None:
        """Record that two groups are two people, so that they are never joined or proposed again.

        Args:
            first: number of a group.
            second: number of another group.

        Raises:
            UserError: if a group does not exist.
        """
        with self._change() as change:
            pair = [self._typical(tracks) for tracks in self._groups([first, second]).values()]
            change.record(f"groups {first} and {second} differ", pair)
            add_pairs(change.connection, [(pair[0], pair[1])], same=False)

    def add_photo(self, person: str, crop: bytes) -> None:
        """Add a photo of a person, which searches for the person use from now on, unless it was added before.

        Args:
            person: name of the person.
            crop: JPEG file of the aligned face, with the index's size and margin.

        Raises:
            UserError: if the person has `MOST_PHOTOS` photos.
        """
        with self._change() as change:
            change.record(f"photo of {person}", ())
            self._add_photos(change.connection, person, [crop])

    def photos(self, person: str) -> list[bytes]:
        """Return the JPEG files of a person's photos, the oldest first."""
        found = self._rows("photos", "SELECT crop FROM photos WHERE person = ? ORDER BY id", (person,))
        if not all(isinstance(crop, bytes) for (crop,) in found):
            raise damaged(self._database.folder, "the photo of a person cannot be read")
        return [crop for (crop,) in found]

    def n_photos(self) -> dict[str, int]:
        """Return the number of photos of each person who has some, by name."""
        return dict(self._rows("photos", "SELECT person, COUNT(*) FROM photos GROUP BY person ORDER BY person"))

    def mentions(self, person: str) -> bool:
        """Return whether a photo, a rejected track or the undo log has a person's name."""
        own = "person = ?1 OR person = ?2"
        # Descriptions of decisions end with the name.
        in_log = "substr(what, -length(?1) - 1) = ' ' || ?1 OR instr(before, ?2)"
        conditions = {"photos": own, "rejected": own, "history": in_log}
        values = person, json.dumps(person)
        return any(
            self._rows(table, f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1", values)
            for table, condition in conditions.items()
        )

    def rejected(self, person: str | None = None) -> set[tuple[int, str]]:
        """Return pairs of a track's id and the name of a person that it does not show.

        Args:
            person: name of a person; None returns the pairs of all people.
        """
        query = "SELECT track, person FROM rejected WHERE ?1 IS NULL OR person = ?1"
        return set(self._rows("rejected", query, (person,)))

    def pairs(self, same: bool) -> list[tuple[int, int]]:
        """Return pairs of ids of tracks that show the same person, or two different people.

        Args:
            same: which of the two.
        """
        return self._rows("pairs", "SELECT a, b FROM pairs WHERE same = ? ORDER BY a, b", (int(same),))

    def history(self) -> list[Decision]:
        """Return the decisions that `undo` can take back, the last one first."""
        rows = self._rows("history", "SELECT time, what FROM history ORDER BY id DESC")
        if not all(isinstance(seconds, float) and isinstance(what, str) for seconds, what in rows):
            raise damaged(self._database.folder, "its undo log cannot be read")
        return [Decision(*row) for row in rows]

    def undo(self) -> str:
        """Take back the last decision.

        Returns:
            What was decided, in words.

        Raises:
            UserError: if there is nothing to undo.
        """
        with self._database.write(codes_change=False) as connection:
            run_script(connection, SCHEMA)
            row = connection.execute("SELECT id, what, before FROM history ORDER BY id DESC LIMIT 1").fetchone()
            if row is None:
                raise UserError(f"there is nothing to undo in {self._database.folder}")
            number, what, before = row
            try:
                self._restore(connection, parse_json(before))
            except (KeyError, TypeError, ValueError) as error:
                raise damaged(self._database.folder, "its undo log cannot be read") from error
            connection.execute("DELETE FROM history WHERE id = ?", (number,))
        return str(what)

    @contextmanager
    def _change(self) -> Iterator[Change]:
        """Yield a transaction for a decision. What the decision reads cannot be changed by another process."""
        with self._database.write(codes_change=False) as connection:
            run_script(connection, SCHEMA)
            change = Change(connection, self._database.about_within(connection).get("clustering", 0))
            yield change
            change.save()

    def _name(self, change: Change, what: str, tracks: Sequence[int], person: str | None) -> None:
        connection, chosen = change.connection, json.dumps(list(tracks))
        change.record(what, tracks)
        connection.execute(f"UPDATE tracks SET person = ? WHERE id {CHOSEN}", (person, chosen))
        connection.execute(f"DELETE FROM rejected WHERE person = ? AND track {CHOSEN}", (person, chosen))
        old_names = {old for _, old, _ in change.before["tracks"]} - {None, person}
        change.before["renamed"] = [self._rename(connection, old, person) for old in sorted(old_names) if person]

    def _add_photos(self, connection: sqlite3.Connection, person: str, photos: Sequence[bytes]) -> None:
        known = {crop for (crop,) in connection.execute("SELECT crop FROM photos WHERE person = ?", (person,))}
        new = [crop for crop in dict.fromkeys(photos) if crop not in known]
        if new and len(known) + len(new) > MOST_PHOTOS:
            raise UserError(f"{person} already has {len(known)} photos; a person can have {MOST_PHOTOS} at most")
        connection.executemany("INSERT INTO photos (person, crop) VALUES (?, ?)", [(person, crop) for crop in new])

    def _restore(self, connection: sqlite3.Connection, before: dict[str, Any]) -> None:
        """Restore the state that `_change` recorded; groups only if they were not made again in the meantime."""
        now = self._database.about_within(connection).get("clustering", 0)
        chosen = json.dumps([track for track, _, _ in before["tracks"]])
        for track, person, cluster in before["tracks"]:
            connection.execute("UPDATE tracks SET person = ? WHERE id = ?", (person, track))
            if before["clustering"] == now:
                connection.execute("UPDATE tracks SET cluster = ? WHERE id = ?", (cluster, track))
        connection.execute(f"DELETE FROM rejected WHERE track {CHOSEN}", (chosen,))
        connection.execute(f"DELETE FROM pairs WHERE (a, b) IN ({PAIRS_OF.replace(', same', '')})", (chosen, chosen))
        # Erased tracks are not restored.
        exists = "EXISTS (SELECT 1 FROM tracks WHERE id = ?)"
        for track, person in before["rejected"]:
            connection.execute(f"INSERT INTO rejected SELECT ?, ? WHERE {exists}", (track, person, track))
        for a, b, same in before["pairs"]:
            query = f"INSERT INTO pairs SELECT ?, ?, ? WHERE {exists} AND {exists}"
            connection.execute(query, (a, b, same, a, b))
        connection.execute("DELETE FROM photos WHERE id > ?", (before["photo"],))
        for old, new, photos, tracks, added in before.get("renamed", ()):
            connection.execute(f"UPDATE photos SET person = ? WHERE id {CHOSEN}", (old, json.dumps(photos)))
            connection.executemany("DELETE FROM rejected WHERE track = ? AND person = ?", [(t, new) for t in added])
            query = f"INSERT OR IGNORE INTO rejected SELECT ?, ? WHERE {exists}"
            connection.executemany(query, [(track, old, track) for track in tracks])

    def _rename(
        self, connection: sqlite3.Connection, old: str, new: str
    ) -> tuple[str, str, list[int], list[int], list[int]]:
        """If no track has the old name, give the person's photos and rejected tracks to the new name.

        Returns:
            The names, the ids of the photos, the ids of the rejected tracks, and those that are newly rejected.
        """
        photos: list[int] = []
        tracks: list[int] = []
        added: list[int] = []
        has_tracks = connection.execute("SELECT 1 FROM tracks WHERE person = ?", (old,)).fetchone() is not None
        if not has_tracks and not is_kept(connection, old):
            photos = [id_ for (id_,) in connection.execute("SELECT id FROM photos WHERE person = ?", (old,))]
            query = (
                "SELECT track FROM rejected WHERE person = ?1 AND track NOT IN "
                "(SELECT id FROM tracks WHERE person = ?2 UNION SELECT track FROM rejected WHERE person = ?2)"
            )
            added = [track for (track,) in connection.execute(query, (old, new))]
            tracks = [track for (track,) in connection.execute("SELECT track FROM rejected WHERE person = ?", (old,))]
            connection.execute("UPDATE photos SET person = ? WHERE person = ?", (new, old))
            connection.execute("DELETE FROM rejected WHERE person = ?", (old,))
            query = "INSERT OR IGNORE INTO rejected VALUES (?, ?)"
            connection.executemany(query, [(track, new) for track in added])
        return old, new, photos, tracks, added

    def _rows(self, table: str, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a query on a table that may not exist yet."""
        with self._database.read() as connection:
            has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            return connection.execute(query, values).fetchall() if has_table else []

    def _groups(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Return the ids of the tracks of groups."""
        groups: dict[int, list[int]] = {number: [] for number in numbers}
        if len(groups) < 2 and len(numbers) > 1:
            raise UserError(f"group {numbers[0]} is given twice: give two different groups")
        with self._database.read() as connection:
            query = f"SELECT cluster, id FROM tracks WHERE cluster {CHOSEN} ORDER BY id"
            for number, track in connection.execute(query, (json.dumps(list(groups)),)):
                groups[number].append(track)
        for number, tracks in groups.items():
            if not tracks:
                raise UserError(f"there is no group {number}: facereel people list shows the groups")
        return groups

    def _groups_of(self, tracks: Sequence[int]) -> dict[int, list[int]]:
        """Return the given tracks by the number of their group."""
        groups: dict[int, list[int]] = {}
        with self._database.read() as connection:
            query = f"SELECT id, cluster FROM tracks WHERE id {CHOSEN}"
            of_track = dict(connection.execute(query, (json.dumps(list(tracks)),)))
        for track in tracks:
            if of_track.get(track) is None:
                what = "is in no group" if track in of_track else "is not in the index"
                raise UserError(f"track {track} {what}: facereel people show NUMBER lists the tracks of a group")
            groups.setdefault(of_track[track], []).append(track)
        return groups

    def _typical(self, tracks: Sequence[int]) -> int:
        """Return the track that is nearest to the mean of a group."""
        sample = evenly_spaced(tracks, _SAMPLE)
        vectors = self._vectors(sample)
        return sample[int((vectors @ vectors.mean(axis=0)).argmax())]

    def _check_merge(self, tracks: Sequence[int]) -> None:
        with self._database.read() as connection:
            query = f"SELECT DISTINCT person FROM tracks WHERE person IS NOT NULL AND id {CHOSEN}"
            named = {person for (person,) in connection.execute(query, (json.dumps(list(tracks)),))}
        own = set(tracks)
        for track, person in self.rejected():
            if track in own and person in named:
                raise UserError(f"track {track} was marked as not {person}, who is in these groups: undo that first")

    def _move(self, connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> int:
        """Move tracks to a new group, and return its number."""
        query = "SELECT COALESCE(MAX(cluster), 0) + 1 FROM tracks WHERE cluster IS NOT NULL"
        (number,) = connection.execute(query).fetchone()
        connection.execute(f"UPDATE tracks SET cluster = ? WHERE {condition}", (number, *values))
        return int(number)

    def _rest_with(self, tracks: Sequence[int], person: str) -> list[int]:
        """Return the other tracks of a person, and those of their groups that contain some of the given tracks."""
        query = (
            f"SELECT id FROM tracks WHERE id NOT {CHOSEN} AND (person = ?2 OR cluster IN (SELECT cluster FROM tracks "
            f"WHERE person = ?2 AND id NOT {CHOSEN} AND cluster IN (SELECT cluster FROM tracks WHERE id {CHOSEN})))"
        ).replace("(?)", "(?1)")
        with self._database.read() as connection:
            return [id_ for (id_,) in connection.execute(query, (json.dumps(list(tracks)), person))]


def forget_person(connection: sqlite3.Connection, person: str | None) -> None:
    """Delete what the decisions of an index say of a person, and the undo log, which may name the person.

    Args:
        connection: connection with an open transaction.
        person: name of the person; None empties the undo log only.
    """
    run_script(connection, SCHEMA)
    for table in ("rejected", "photos"):
        connection.execute(f"DELETE FROM {table} WHERE person = ?", (person,))
    connection.execute("DELETE FROM history")


def _tracks(tracks: Sequence[int]) -> str:
    return plural(len(tracks), "track")
