"""The search command: find the videos that show a person."""

from __future__ import annotations

from datetime import datetime
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facereel.cli.options import GapSeconds, IndexFolders, TimelineFile, Trust
from facereel.cli.search_intervals import Wanted, list_intervals
from facereel.errors import UserError
from facereel.system.console import console, error_console
from facereel.system.text import format_timestamp, plural

if TYPE_CHECKING:
    from facereel.retrieval.face_search import Query, SearchResult
    from facereel.retrieval.track_index import Track, Within

_DAY = ["%Y-%m-%d"]


def search_command(
    folders: IndexFolders,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTO_OR_VIDEO...", help="Photos or videos, all of one person."),
    ] = None,
    person: Annotated[str | None, typer.Option(help="Search for a person by name, also with the photos.")] = None,
    top: Annotated[int, typer.Option(help="Number of results; --intervals lists all.", min=1)] = 10,
    face: Annotated[str, typer.Option(help="Number of the face, largest (video: longest) first; or all.")] = "1",
    tracks: Annotated[bool, typer.Option("--tracks", help="List tracks instead of videos.")] = False,
    below: Annotated[Path | None, typer.Option("--folder", help="Only videos below this folder.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only videos from this day or later.", formats=_DAY)] = None,
    until: Annotated[datetime | None, typer.Option(help="Only videos from this day or earlier.", formats=_DAY)] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="List all times at which the person is likely on screen.")
    ] = False,
    gap: GapSeconds = 1.0,
    shown: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="PHOTO", help="Intervals together with this person too; may be repeated."),
    ] = None,
    absent: Annotated[
        list[Path] | None,
        typer.Option("--without", metavar="PHOTO", help="Intervals without this person; may be repeated."),
    ] = None,
    export: TimelineFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    min_face: Annotated[int, typer.Option(help="Longer side of the smallest face in a photo, in pixels.")] = 40,
    trust: Trust = None,
) -> None:
    """List the videos that show a person, nearest first, with times and a thumbnail.

    Example: facereel search someone.jpg --index index --top 5

    Several photos of one person find more than one, and so do tracks that you have named:
    facereel search a.jpg b.jpg --person "Ada Lovelace" --index index

    Several indexes answer as one: facereel search someone.jpg --index 2024 --index 2025

    When two people are on screen together, for a video editor:
    facereel search a.jpg --with b.jpg --index index --export together.otio
    """
    from facereel.retrieval.face_search import TOO_POOR, combine
    from facereel.retrieval.several_indexes import SeveralIndexes

    files = files or []
    _check_faces(files, person, face)
    together = len(files) > 1 or person is not None
    within = _within(below, since, until)
    is_timeline = bool(intervals or shown or absent or export)
    if len(folders) > 1 and (is_timeline or person is not None):
        raise UserError("--person, --intervals, --with, --without and --export search one index: give --index once")
    if is_timeline:
        if tracks or face == "all":
            raise UserError(f"{'--tracks' if tracks else '--face all'} cannot be combined with intervals")
        wanted = Wanted(files, person, int(face), shown or [], absent or [], min_face, gap, within)
        list_intervals(folders[0], wanted, export, json=json)
        return
    search = SeveralIndexes(folders)
    if together:
        named = [] if person is None else search.searches[0].named(person)
        queries = [combine([*(search.queries(file, min_face)[0] for file in files), *named])]
        headings = [_heading_of_several(len(files), person, len(named))]
    else:
        queries = search.queries(files[0], min_face)
        headings = [_heading(query, number, len(queries)) for number, query in enumerate(queries, start=1)]
    if face != "all" and int(face) > len(queries):
        raise UserError(f"--face {face}: {files[0]} has only {len(queries)}")
    numbers = range(1, len(queries) + 1) if face == "all" else [int(face)]
    entries: list[dict[str, Any]] = []
    for number in numbers:
        query = queries[number - 1]
        found = search.search(query, top, per_video=not tracks, within=within)
        if json:
            entries += [_entry(one, rank, number) for rank, one in enumerate(found, start=1)]
        else:
            console.print(headings[number - 1])
        _print(found, None if query.is_too_poor else search.threshold, number, listed=not json)
        if query.is_too_poor:
            error_console.print(f"face {number}: {TOO_POOR}")
    if json:
        print(dumps(entries, indent=1))


def _check_faces(files: list[Path], person: str | None, face: str) -> None:
    if not files and person is None:
        raise UserError("give a photo or a video of the person, or --person NAME")
    if (len(files) > 1 or person is not None) and face != "1":
        raise UserError(f"--face {face}: with several photos or --person, the largest face of each photo is used")
    if face != "all" and not (face.isdecimal() and int(face) > 0):
        raise UserError(f"--face {face}: must be a positive number, or all")


def _within(below: Path | None, since: datetime | None, until: datetime | None) -> Within:
    from facereel.retrieval.track_index import Within

    folder = None if below is None else str(below.absolute())
    return Within.days(folder, None if since is None else since.date(), None if until is None else until.date())


def _entry(result: SearchResult, rank: int, face: int) -> dict[str, Any]:
    track = result.best.track
    return {
        "rank": rank,
        "video": track.video,
        "track": track.number,
        "start_s": track.start_s,
        "end_s": track.end_s,
        "distance": round(result.best.distance, 6),
        "probability": None if result.probability is None else round(result.probability, 4),
        "thumbnail": str(track.thumbnail),
        "person": track.person,
        "match": None if result.best.verdict is None else result.best.verdict == "likely",
        "face": face,
        **({"absent": True} if track.is_absent else {}),
    }


def _heading(query: Query, number: int, n_faces: int) -> str:
    where = "" if query.box is None else " at " + ", ".join(str(round(value)) for value in query.box)
    when = "" if query.start_s is None or query.end_s is None else f" from {query.start_s:.1f} to {query.end_s:.1f} s"
    return f"face {number} of {n_faces}{where}{when}"


def _heading_of_several(n_files: int, person: str | None, n_named: int) -> str:
    parts = [plural(n_files, "photo or video", "photos or videos")] if n_files else []
    parts += [] if person is None else [f"{plural(n_named, 'track or photo', 'tracks and photos')} of {person}"]
    return f"one person, from {' and '.join(parts)}"


def _print(found: list[SearchResult], threshold: float | None, face: int, *, listed: bool) -> None:
    """Print results if they are `listed`, and a warning on stderr if the nearest is not a match."""
    from facereel.retrieval.face_search import deciding_digits

    digits = deciding_digits((one.best.distance for one in found), threshold, least=3)
    for rank, one in enumerate(found if listed else [], start=1):
        track = one.best.track
        parts = [
            f"{rank:3}  {one.best.distance:.{digits}f}",
            f"{one.best.verdict or '':8}",
            track.video + (" (absent)" if track.is_absent else ""),
            time_span(track),
            f"track {track.number}",
            f"and {len(one.others)} more" if one.others else "",
            track.person or "",
            str(track.thumbnail),
        ]
        console.print("  ".join(part for part in parts if part.strip()))
    if listed and not found:
        console.print("  no video to compare with")
    if found and threshold is not None and found[0].best.distance > threshold:
        error_console.print(
            f"face {face}: probably not in the index: the nearest distance, {found[0].best.distance:.{digits}f}, is "
            f"above {threshold:.{digits}f}, where a face is as likely to be someone else"
        )


def time_span(track: Track) -> str:
    """Return the times of a track, or an empty string if they are unknown."""
    if track.start_s is None or track.end_s is None:
        return ""
    return f"{format_timestamp(track.start_s, 1)} - {format_timestamp(track.end_s, 1)}"
