"""Find when a person is on screen: by photos, by name, with and without other people."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from facereel.errors import UserError
from facereel.retrieval.face_search import TOO_POOR, FaceSearch, Query
from facereel.retrieval.intervals import GAP_S, HALF_STEP_S, Interval, merge, together, without
from facereel.retrieval.track_index import Track, Within


@dataclass(frozen=True)
class Person:
    """A person to search for.

    Args:
        label: what the person is called in the intervals.
        queries: faces of the person; may be empty.
        name: name in the index. Tracks with this name certainly show the person, those with another name do not.
    """

    label: str
    queries: Sequence[Query] = ()
    name: str | None = None


class Sighting(NamedTuple):
    """A track that shows a person."""

    track: Track
    distance: float | None
    """None if the track was not found by its face."""
    probability: float | None
    is_certain: bool
    """Whether the person was named, or is likely and the track is not brief."""


def find_intervals(
    search: FaceSearch,
    people: Sequence[Person],
    absent: Sequence[Person] = (),
    *,
    gap_s: float = GAP_S,
    within: Within | None = None,
) -> list[Interval]:
    """Find when people are on screen together, and others are not.

    A track that is likely each of several of these people counts only for the nearest one: a face is one person.

    Args:
        search: the index.
        people: people who are on screen together; one person is on screen alone or with anyone.
        absent: people who are not on screen.
        gap_s: the longest gap between two tracks of a person to close, in seconds.
        within: videos to search in; None searches all.

    Returns:
        The intervals, sorted by video and start.

    Raises:
        ValueError: if there is no person, or `gap_s` is negative.
        UserError: if the index has no calibration, a face is too poor, a name is unknown, or no track of a person
            has times.
    """
    if not people:
        raise ValueError("there is no person to search for")
    everyone = (*people, *absent)
    found = _of_nearest_person([_sightings(search, person, within) for person in everyone])
    intervals = [
        intervals_of(person.label, sightings, gap_s) for person, sightings in zip(everyone, found, strict=True)
    ]
    shown = reduce(together, intervals[1 : len(people)], intervals[0])
    return reduce(without, intervals[len(people) :], shown)


def intervals_of(label: str, sightings: Iterable[Sighting], gap_s: float = GAP_S) -> list[Interval]:
    """Join the tracks of one person to intervals.

    Other people may be probable in brief tracks. So a brief track only extends an interval of certain tracks of the
    same video that is at most `gap_s` away, and only if none of these tracks is on screen at the same time: then it is
    another face.

    Args:
        label: name or other label of the person.
        sightings: tracks that show the person.
        gap_s: the longest gap to close, in seconds.

    Returns:
        The intervals, sorted by video and start.

    Raises:
        UserError: if there are tracks, and none has times.
    """
    certain: list[Interval] = []
    brief: list[Interval] = []
    sightings = list(sightings)
    for one in sightings:
        if one.track.start_s is not None and one.track.end_s is not None:
            (certain if one.is_certain else brief).append(_interval(label, one, one.track.start_s, one.track.end_s))
    if sightings and not certain and not brief:
        raise UserError(f"{sightings[0].track.video}: the tracks of a prepared data set have no times")
    merged = merge(certain, gap_s)
    near = [one for one in brief if any(_gap_s(one, other) <= gap_s for other in merged)]
    # Half a step was added at both ends, so one track that follows another may overlap it by a step.
    alone = [one for one in near if all(_gap_s(one, other) >= -2 * HALF_STEP_S - 1e-6 for other in certain)]
    return merge([*merged, *alone], gap_s)


def named_intervals(tracks: Mapping[str, Sequence[Track]], gap_s: float = GAP_S) -> list[Interval]:
    """Join the tracks that are known to show people, by name or by group.

    Args:
        tracks: tracks by the person's name or other label.
        gap_s: the longest gap to close, in seconds.

    Returns:
        The intervals of each person, sorted by video and start. Those of named tracks have the probability 1; tracks
        without a name have none.

    Raises:
        UserError: if no track has times.
    """
    intervals, timeless = [], ""
    for label, some in tracks.items():
        sightings = [Sighting(track, None, None if track.person is None else 1.0, True) for track in some]
        timed = [one for one in sightings if one.track.start_s is not None]
        timeless = timeless if len(timed) == len(sightings) else some[0].video
        intervals += intervals_of(label, timed, gap_s)
    if timeless and not intervals:
        raise UserError(f"{timeless}: the tracks of a prepared data set have no times")
    return sorted(intervals, key=lambda one: (one.video, one.start_s, one.people))


def _gap_s(one: Interval, other: Interval) -> float:
    """Return the seconds between two intervals, negative if they overlap, infinite in different videos."""
    if one.video != other.video:
        return math.inf
    return max(one.start_s - other.end_s, other.start_s - one.end_s)


def _interval(label: str, one: Sighting, start_s: float, end_s: float) -> Interval:
    start_s, end_s = max(0.0, start_s - HALF_STEP_S), end_s + HALF_STEP_S
    return Interval(one.track.video, start_s, end_s, (label,), (one.track.number,), one.distance, one.probability)


def _sightings(search: FaceSearch, person: Person, within: Within | None) -> dict[int, Sighting]:
    """Return the tracks that show a person, by id."""
    found: dict[int, Sighting] = {}
    if person.queries:
        if all(query.is_too_poor for query in person.queries):
            raise UserError(f"{person.label}: the face is {TOO_POOR}")
        for match in search.probable(person.queries, within):
            if person.name is None or match.track.person in (None, person.name):
                is_certain = match.verdict == "likely"
                found[match.track.id] = Sighting(match.track, match.distance, match.probability, is_certain)
    if person.name is not None:
        for track in search.index.tracks(search.index.ids_of_person(person.name)):
            if within is None or within.includes(track):
                before = found.get(track.id)
                found[track.id] = Sighting(track, before and before.distance, 1.0, True)
    return found


def _of_nearest_person(found: Sequence[dict[int, Sighting]]) -> list[list[Sighting]]:
    """Keep each track only for the person it is most probable for."""
    nearest: dict[int, tuple[tuple[float, float], int]] = {}
    for number, sightings in enumerate(found):
        for id_, one in sightings.items():
            rank = -(one.probability or 0.0), 1.0 if one.distance is None else one.distance
            if id_ not in nearest or rank < nearest[id_][0]:
                nearest[id_] = rank, number
    return [
        [one for id_, one in sightings.items() if nearest[id_][1] == number] for number, sightings in enumerate(found)
    ]
