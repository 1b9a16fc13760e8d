"""The `facereel people` commands with which a user decides who is who: show, confirm, reject, split, differ, undo."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import IndexFolder
from facereel.cli.people import open_index
from facereel.cli.search import time_span
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import plural

if TYPE_CHECKING:
    from facereel.retrieval.suggestions import Party
    from facereel.retrieval.track_index import Track, TrackIndex

_Person = Annotated[str, typer.Argument(metavar="NAME", help="Name of the person.")]
_Tracks = Annotated[
    list[int] | None, typer.Option("--track", metavar="ID", help="Id of a track, from show; may be repeated.")
]
_Groups = Annotated[
    list[int] | None,
    typer.Option("--group", metavar="NUMBER", help="Number of a group: its tracks without a name; may be repeated."),
]


def show_command(
    who: Annotated[str, typer.Argument(metavar="NUMBER|NAME", help="Number of a group, or name of a person.")],
    folder: IndexFolder,
) -> None:
    """List the tracks of a group or person with their ids.

    Example: facereel people show 3 --index index
    """
    index = open_index(folder)
    tracks = [track for track in index.tracks() if track.person == who or str(track.cluster) == who]
    n_photos = len(index.people.photos(who))
    if not tracks and not n_photos:
        raise UserError(f"there is no group or person {who}: facereel people list shows the groups")
    for track in tracks:
        parts = f"{track.id:8}", track.video, time_span(track), track.person or ""
        console.print("  ".join(part for part in parts if part))
    console.print(plural(len(tracks), "track") + (f" and {plural(n_photos, 'photo')}" if n_photos else ""))


def confirm_command(
    person: _Person,
    folder: IndexFolder,
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO...", help="Photos of the person; the largest face is used.")
    ] = None,
    track: _Tracks = None,
    group: _Groups = None,
) -> None:
    """Confirm that tracks, groups or photos show a person. All of them define the person from now on.

    Example: facereel people confirm "Ada Lovelace" --group 3 --index index

    With a photo: facereel people confirm "Ada Lovelace" ada.jpg --index index
    """
    from facereel.data.person_names import check_name

    name = check_name(person)
    if name is None:
        raise UserError("NAME is empty: give the name of the person")
    index = open_index(folder)
    tracks = _chosen(index, track, group)
    if not tracks and not photos:
        raise UserError("nothing to confirm: give photos, --track ID or --group NUMBER")
    crops = [] if not photos else _crops(folder, photos)
    index.people.confirm(tracks, name, crops)
    parts = [plural(n, what) for n, what in ((len(tracks), "track"), (len(crops), "photo")) if n]
    console.print(f"{name}: confirmed {' and '.join(parts)}")


def reject_command(person: _Person, folder: IndexFolder, track: _Tracks = None, group: _Groups = None) -> None:
    """Record that tracks or groups do not show a person. They are never proposed for this person again.

    Example: facereel people reject "Ada Lovelace" --track 17 --index index
    """
    from facereel.data.person_names import check_name

    index = open_index(folder)
    tracks = _chosen(index, track, group)
    if not tracks:
        raise UserError("nothing to reject: give --track ID or --group NUMBER")
    name = check_name(person)
    if name is None or not (index.ids_of_person(name) or index.people.photos(name)):
        raise UserError(f"{person}: no track or photo has this name; facereel people list shows the names")
    index.people.reject(tracks, name)
    console.print(f"{name}: rejected {plural(len(tracks), 'track')}")


def split_command(folder: IndexFolder, track: _Tracks = None) -> None:
    """Take tracks out of their group, since they show another person. They stay apart in later groups.

    Example: facereel people split --track 17 --track 21 --index index
    """
    index = open_index(folder)
    if not track:
        raise UserError("nothing to split off: give --track ID; facereel people show NUMBER lists the ids")
    numbers = index.people.split(list(dict.fromkeys(track)))
    console.print(f"{plural(len(set(track)), 'track')} now in group {', '.join(map(str, numbers))}")


def differ_command(
    first: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of a group.")],
    second: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of another group.")],
    folder: IndexFolder,
) -> None:
    """Record that two groups are two people. They are never joined or suggested again.

    Example: facereel people differ 3 7 --index index
    """
    open_index(folder).people.differ(first, second)
    console.print(f"groups {first} and {second} are two people")


def suggest_command(
    folder: IndexFolder, top: Annotated[int, typer.Option(help="Number of suggestions.", min=1)] = 10
) -> None:
    """Suggest which people and groups may be the same person; the answer that settles most comes first.

    Example: facereel people suggest --index index
    """
    from facereel.retrieval.suggestions import suggest

    found = suggest(open_index(folder), top)
    for one in found:
        first, second = one.first, one.second
        console.print(f"{one.probability:4.0%}  is {_described(first)} the same person as {_described(second)}?")
        if first.person is not None:
            answers = [["confirm", first.person, "--group", str(second.number)]]
            answers.append(["reject", *answers[0][1:]])
        else:
            answers = [[verb, str(first.number), str(second.number)] for verb in ("merge", "differ")]
        for said, answer in zip(("yes", "no"), answers, strict=True):
            console.print(f"      {said}: {shlex.join(['facereel', 'people', *answer, '--index', str(folder)])}")
    if not found:
        console.print("no suggestions: all groups are settled, or are the only one")


def undo_command(
    folder: IndexFolder,
    show: Annotated[bool, typer.Option("--list", help="List what can be undone, the last decision first.")] = False,
) -> None:
    """Take back the last decision: a name, confirm, reject, merge, split or differ.

    Example: facereel people undo --index index
    """
    index = open_index(folder)
    if not show:
        console.print(f"undone: {index.people.undo()}")
        return
    history = index.people.history()
    for decision in history:
        console.print(f"{datetime.fromtimestamp(decision.seconds):%Y-%m-%d %H:%M:%S}  {decision.what}")
    console.print(f"{plural(len(history), 'decision')} can be undone")


def _chosen(index: TrackIndex, tracks: Sequence[int] | None, groups: Sequence[int] | None) -> list[int]:
    """Return the ids of the given tracks, and of those in the given groups that have no name."""
    known = index.tracks()
    ids = {track.id for track in known}
    for given in tracks or ():
        if given not in ids:
            raise UserError(f"--track {given}: it is not in the index; facereel people show NUMBER lists the ids")
    chosen = list(dict.fromkeys(tracks or ()))
    for number in groups or ():
        its = [track for track in known if track.cluster == number]
        if not its:
            raise UserError(f"--group {number}: there is no such group; facereel people list shows the groups")
        unnamed = [track.id for track in its if track.person is None and track.id not in chosen]
        if not unnamed:
            raise UserError(f"--group {number}: all its tracks have a name; choose some with --track")
        chosen += unnamed
    return chosen


def _crops(folder: Path, photos: Sequence[Path]) -> list[bytes]:
    """Return the JPEG files of the largest face of each photo."""
    from facereel.retrieval.face_search import TOO_POOR, FaceSearch
    from facereel.video.image_file import encode_jpeg

    search = FaceSearch(folder)
    crops = []
    for photo in photos:
        query = search.faces(photo)
        if not query:
            raise UserError(f"{photo}: no face found")
        if query[0].is_too_poor:
            raise UserError(f"{photo}: {TOO_POOR}")
        crops.append(encode_jpeg(query[0].crop))
    return crops


def _described(party: Party) -> str:
    tracks: list[Track] = party.tracks
    return f"{party} ({plural(len(tracks), 'track')})"
