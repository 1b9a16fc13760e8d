"""`facereel people timeline`: who is on screen when, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import GapSeconds, IndexFolder, MinTracks, TimelineFile
from facereel.cli.people import add_unnamed, open_index, saved_groups
from facereel.cli.search_intervals import print_intervals
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import plural

if TYPE_CHECKING:
    from facereel.retrieval.track_index import Track, TrackIndex


def timeline_command(
    folder: IndexFolder,
    person: Annotated[list[str] | None, typer.Option(help="Only this person; may be repeated.")] = None,
    video: Annotated[Path | None, typer.Option(help="Only this video.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Also unnamed groups, as group_0003 and so on.")] = False,
    min_tracks: MinTracks = 1,
    gap: GapSeconds = 1.0,
    export: TimelineFile = None,
    player_json: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write who is on screen, a JSON file per video, for a player.")
    ] = None,
    xmp: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an XMP sidecar per video with the people's names.")
    ] = None,
) -> None:
    """List when named people are on screen, and write it for other programs.

    Example: facereel people timeline --index index --video lake.mp4 --export lake.vtt
    """
    from facereel.export.timeline import check_timeline_path, write_player_files, write_sidecars, write_timeline
    from facereel.retrieval.person_intervals import named_intervals

    if not gap >= 0:
        raise UserError(f"--gap {gap:g}: must be at least 0 seconds")
    if everyone and person:
        raise UserError("--all lists everyone: omit it or --person")
    if export is not None:
        check_timeline_path(export)
    index = open_index(folder)
    if video is not None and str(video.absolute()) not in index.videos():
        raise UserError(f"{video} is not in the index in {folder}")
    tracks = _tracks_of_people(index, person, everyone, min_tracks)
    chosen = None if video is None else str(video.absolute())
    found = [one for one in named_intervals(tracks, gap) if chosen in (None, one.video)]
    if export is not None:
        write_timeline(export, found, title=folder.name if video is None else video.name)
    print_intervals(found)
    if export is not None:
        console.print(f"written: {export}")
    for out, write, what in ((player_json, write_player_files, "JSON file"), (xmp, write_sidecars, "sidecar")):
        if out is not None:
            console.print(f"written: {plural(len(write(out, found)), what)} in {out}")


def _tracks_of_people(
    index: TrackIndex, people: list[str] | None, everyone: bool, min_tracks: int
) -> dict[str, list[Track]]:
    """Return tracks by the person's name or the number of their group."""
    tracks: dict[str, list[Track]] = {}
    for track in index.tracks():
        if track.person is not None and (not people or track.person in people):
            tracks.setdefault(track.person, []).append(track)
    for name in people or []:
        if name not in tracks:
            raise UserError(f"no track is named {name}: facereel people list shows the names")
    if everyone:
        add_unnamed(tracks, [group for group in saved_groups(index) if len(group.tracks) >= min_tracks])
    if not tracks:
        raise UserError("no group has a name: name groups with facereel people name, or use --all")
    return tracks
