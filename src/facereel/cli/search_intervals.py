"""`facereel search --intervals`: when people are on screen, together, and without others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import format_timestamp, plural

if TYPE_CHECKING:
    from facereel.retrieval.face_search import FaceSearch, Query
    from facereel.retrieval.intervals import Interval
    from facereel.retrieval.person_intervals import Person
    from facereel.retrieval.track_index import Within


@dataclass(frozen=True)
class Wanted:
    """What `facereel search --intervals` was called with."""

    files: Sequence[Path]
    """Photos or videos of the person."""
    person: str | None
    face: int
    """Number of the face in a single photo."""
    shown: Sequence[Path]
    """A photo or video of each person who is on screen at the same time."""
    absent: Sequence[Path]
    """A photo or video of each person who is not."""
    min_face: int
    gap_s: float
    within: Within


def list_intervals(folder: Path, wanted: Wanted, export: Path | None, *, json: bool) -> None:
    """Search an index for intervals, and print and export them."""
    from facereel.export.timeline import check_timeline_path, write_timeline
    from facereel.retrieval.face_search import FaceSearch

    if not wanted.gap_s >= 0:
        raise UserError(f"--gap {wanted.gap_s:g}: must be at least 0 seconds")
    if export is not None:
        check_timeline_path(export)
    found = _search(FaceSearch(folder), wanted)
    if export is not None:
        write_timeline(export, found, title=", ".join(found[0].people) if found else "facereel")
    print_intervals(found, json=json)
    if export is not None and not json:
        console.print(f"written: {export}")


def _search(search: FaceSearch, wanted: Wanted) -> list[Interval]:
    from facereel.retrieval.person_intervals import Person, find_intervals

    everyone = [*wanted.files, *wanted.shown, *wanted.absent]
    n_named = Counter(file.stem for file in everyone)
    labels = {file: file.stem if n_named[file.stem] == 1 else str(file) for file in everyone}

    def other(file: Path) -> Person:
        return Person(labels[file], [_query(search, file, 1, wanted.min_face)])

    queries = [_query(search, file, wanted.face, wanted.min_face) for file in wanted.files]
    if wanted.person is not None:
        queries += search.named(wanted.person)
    first = Person(labels[wanted.files[0]] if wanted.person is None else wanted.person, queries, wanted.person)
    people = [first, *map(other, wanted.shown)]
    return find_intervals(search, people, [*map(other, wanted.absent)], gap_s=wanted.gap_s, within=wanted.within)


def print_intervals(intervals: Sequence[Interval], *, json: bool = False) -> None:
    """Print intervals as lines, or as JSON."""
    if json:
        from facereel.export.timeline import describe_interval

        print(dumps([describe_interval(one) for one in intervals], indent=1))
        return
    for one in intervals:
        times = f"{format_timestamp(one.start_s, 1)} - {format_timestamp(one.end_s, 1)}"
        sure = "" if one.probability is None else f"{one.probability:.2f}"
        tracks = f"{'track' if len(one.tracks) == 1 else 'tracks'} {', '.join(str(track) for track in one.tracks)}"
        console.print("  ".join(part for part in (one.video, times, sure, ", ".join(one.people), tracks) if part))
    n_videos = len({one.video for one in intervals})
    seconds = sum(one.duration_s for one in intervals)
    console.print(f"{plural(len(intervals), 'interval')} in {plural(n_videos, 'video')}, {seconds:.1f} seconds")


def _query(search: FaceSearch, file: Path, face: int, min_face: int) -> Query:
    queries = search.queries(file, min_face)
    if face > len(queries):
        raise UserError(f"--face {face}: {file} has only {len(queries)}")
    return queries[face - 1]
