"""The `facereel people` commands: group the tracks of an index into people, and name them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import ContactSheet, IndexFolder, MinTracks
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import plural

if TYPE_CHECKING:
    from facereel.retrieval.clustering.groups import Group
    from facereel.retrieval.track_index import Track, TrackIndex

# Groups on the contact sheet, and tracks per group: an image of 1,300 by 6,400 pixels.
SHEET_GROUPS = 60
SHEET_TRACKS = 10

people = typer.Typer(
    no_args_is_help=True,
    help="Group the tracks of an index into people across all videos, name them, and export them for training.",
)


@people.command("cluster")
def cluster_command(
    folder: IndexFolder,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Largest mean distance at which groups are joined, in 0..1. By default it depends on the number of "
            "tracks and on how the index was calibrated."
        ),
    ] = None,
    min_tracks: MinTracks = 1,
    contact_sheet: ContactSheet = None,
) -> None:
    """Replace the groups by new ones, and list them. Names are kept.

    Faces visible at the same time in one video are different people, and so are tracks with different names. Your other
    decisions are respected too: merge, split, reject and differ.

    Example: facereel people cluster --index index --contact-sheet people.jpg
    """
    from facereel.retrieval.clustering.groups import default_threshold, make_groups

    index = open_index(folder)
    if threshold is None:
        calibration = index.calibration
        if calibration is None:
            raise UserError(
                f"{folder} has no calibration: give --threshold, or calibrate it on known people: facereel convert "
                f"--index {folder} --calibrate PREPARED"
            )
        threshold = default_threshold(calibration, len(index))
    elif not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g}: must be in 0..1")
    groups = make_groups(index, threshold)
    console.print(f"groups of tracks with a mean distance of at most {threshold:.3f}:")
    _print(index, groups, min_tracks, contact_sheet)


@people.command("list")
def list_command(folder: IndexFolder, min_tracks: MinTracks = 1, contact_sheet: ContactSheet = None) -> None:
    """List the groups with their numbers and names.

    Example: facereel people list --index index --contact-sheet people.jpg
    """
    index = open_index(folder)
    _print(index, saved_groups(index), min_tracks, contact_sheet)


@people.command("name")
def name_command(
    names: Annotated[list[str], typer.Argument(metavar="NUMBER=NAME...", help="Number of a group and its name.")],
    folder: IndexFolder,
) -> None:
    """Name the tracks of groups. An empty name removes the name.

    Example: facereel people name 1="Ada Lovelace" 3="Alan Turing" --index index

    Remove a name: facereel people name 3= --index index
    """
    index, by_number = open_index(folder), _parse_names(names)
    groups = {group.number: group for group in saved_groups(index)}
    _check(groups, list(by_number))
    for number, name in by_number.items():
        group = groups[number]
        index.people.name([track.id for track in group.tracks], name)
        before = [old for old in group.names if old != name]
        suffix = f" (before: {', '.join(before)})" if before else ""
        named = f"named {name}" if name else "without a name"
        console.print(f"group {number}: {len(group.tracks)} tracks {named}{suffix}")
    _print_similar(index, {name for name in by_number.values() if name})
    _print(index, saved_groups(index, quiet=True))


@people.command("merge")
def merge_command(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER NUMBER...", help="Numbers of the groups.", min=1)],
    folder: IndexFolder,
) -> None:
    """Merge groups into the one with the smallest number. Names are kept, and later groups respect it.

    Example: facereel people merge 3 7 --index index
    """
    if len(set(numbers)) < 2:
        raise UserError(f"{numbers[0]}: give at least two different groups, as in facereel people merge 3 7")
    index = open_index(folder)
    _check({group.number: group for group in saved_groups(index)}, numbers)
    index.people.merge(numbers)
    _print(index, saved_groups(index, quiet=True))


@people.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help="Folder of the data set. An existing one is extended.")],
    folder: IndexFolder,
    min_tracks: MinTracks = 1,
    everyone: Annotated[
        bool, typer.Option("--all", help="Also export unnamed groups, as group_0003 and so on.")
    ] = False,
) -> None:
    """Export named people as a data set for training, one clip per track.

    Example: facereel people export people --index index
    """
    from facereel.retrieval.export_people import export_people

    index = open_index(folder)
    tracks: dict[str, list[Track]] = {}
    for track in index.tracks():
        if track.person is not None:
            tracks.setdefault(track.person, []).append(track)
    if everyone:
        add_unnamed(tracks, [group for group in saved_groups(index) if len(group.tracks) >= min_tracks])
    if not tracks:
        raise UserError("no group has a name: name groups with facereel people name, or use --all")
    done = export_people(tracks, out)
    for clip, other in done.moved.items():
        console.print(f"note: {clip} is also in clips/{other}, from an earlier export: delete the wrong one")
    console.print(
        f"{out}: {done.n_people} people; {done.n_made} new clips, {done.n_before} already there\n"
        f"train on it: facereel train data=folder data.root={out}"
    )


def open_index(folder: Path) -> TrackIndex:
    """Open an index that has tracks."""
    from facereel.retrieval.track_index import TrackIndex

    index = TrackIndex(folder)
    if not len(index):
        raise UserError(f"the index in {folder} has no tracks: add some with facereel index")
    return index


def saved_groups(index: TrackIndex, quiet: bool = False) -> list[Group]:
    """Return the saved groups; print a note on ungrouped tracks unless `quiet`.

    Raises:
        UserError: if there are no groups.
    """
    from facereel.retrieval.clustering.groups import grouped

    groups = grouped(index.tracks())
    cluster = f"facereel people cluster --index {index.folder}"
    if not groups:
        raise UserError(f"the index has no groups: make them with {cluster}")
    n_new = len(index) - sum(len(group.tracks) for group in groups)
    if n_new and not quiet:
        console.print(f"note: {n_new} tracks were added later and are in no group: {cluster} makes new groups")
    return groups


def _parse_names(arguments: Sequence[str]) -> dict[int, str | None]:
    from facereel.data.person_names import check_name

    names: dict[int, str | None] = {}
    for argument in arguments:
        number, equals, name = argument.partition("=")
        if not equals or not re.fullmatch(r"[0-9]{1,9}", number.strip()):
            raise UserError(f'{argument}: must be a group\'s number and a name, as in 3="Ada Lovelace"')
        if int(number) in names:
            raise UserError(f"{argument!a}: group {int(number)} is named twice")
        try:
            names[int(number)] = check_name(name)
        except UserError as error:
            raise UserError(f"{argument!a}: {error}") from error
    return names


def _check(groups: dict[int, Group], numbers: Sequence[int]) -> None:
    for number in numbers:
        if number not in groups:
            raise UserError(f"there is no group {number}; the numbers are 1 to {max(groups)}")


def _print_similar(index: TrackIndex, names: set[str]) -> None:
    """Print a note for each new name that looks like another name in the index."""
    from facereel.data.person_names import spelling_key

    known = sorted({track.person for track in index.tracks() if track.person is not None})
    for name in sorted(names):
        similar = [f'"{other}"' for other in known if other != name and spelling_key(other) == spelling_key(name)]
        if similar:
            console.print(
                f'note: "{name}" looks like {", ".join(similar)}, but is treated as another person: '
                "use the same name if it is one person"
            )


def _print(index: TrackIndex, groups: list[Group], min_tracks: int = 1, sheet: Path | None = None) -> None:
    shown = [group for group in groups if len(group.tracks) >= min_tracks]
    if shown:
        console.print(f"{'group':>6}{'tracks':>8}{'videos':>8}{'seconds':>10}  name")
    for group in shown:
        columns = f"{group.number:6} {len(group.tracks):7} {group.n_videos:7} {group.seconds:9.1f}"
        console.print(f"{columns}  {_title(group)}".rstrip())
    for person, n_photos in index.people.n_photos().items():
        console.print(f"{person}: {plural(n_photos, 'photo')}")
    hidden = len(groups) - len(shown)
    console.print(
        f"{len(groups)} groups of {sum(len(group.tracks) for group in groups)} tracks"
        + (f"; {hidden} with fewer than {min_tracks} tracks are not listed" if hidden else "")
    )
    if sheet is not None:
        _draw(index, shown, sheet)


def _title(group: Group) -> str:
    if group.proposal is not None:
        n_named = len(group.tracks) - len(group.unnamed)
        return f"{group.proposal}? ({n_named} of {len(group.tracks)} have this name)"
    return ", ".join(group.names)


def _draw(index: TrackIndex, groups: list[Group], path: Path) -> None:
    from facereel.data.contact_sheet import Line, draw_sheet, save_sheet
    from facereel.data.select import evenly_spaced
    from facereel.video.image_file import Unreadable, read_image

    if not groups:
        raise UserError("there is no group to draw: lower --min-tracks")
    lines = []
    for group in groups[:SHEET_GROUPS]:
        images, named = [], []
        for place in evenly_spaced(range(len(group.tracks)), SHEET_TRACKS):
            track = group.tracks[place]
            file = index.thumbnails.find(track.id)
            image = Unreadable.UNREADABLE if file is None else read_image(file)
            if not isinstance(image, Unreadable):
                images.append(image)
                named.append(track.person is not None)
        heading = f"{group.number}: {len(group.tracks)} tracks".ljust(24)
        lines.append(Line(heading + _title(group), images, named))
    save_sheet(draw_sheet(lines, "has a name", "has no name"), path)
    n_smaller = len(groups) - len(lines)
    console.print(f"contact sheet: {path}" + (f", without the {n_smaller} smaller groups" if n_smaller else ""))


def add_unnamed(tracks: dict[str, list[Track]], groups: list[Group]) -> None:
    """Add unnamed groups under their number, except tracks that may show a named person.

    Raises:
        UserError: if a person has the name of an unnamed group.
    """
    for group in groups:
        if group.names and group.unnamed:
            # With a label of their own, they would teach a model to separate one person into two.
            console.print(
                f"note: skipped {len(group.unnamed)} tracks of group {group.number}, which may show "
                f"{' or '.join(group.names)}: name the group"
            )
        elif group.unnamed:
            label = f"group_{group.number:04}"
            if label in tracks:
                raise UserError(f"a person is named {label}, the name of an unnamed group: rename the person")
            tracks[label] = group.unnamed
