"""Behind the command cluster: what is asked for, and what is said of the groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from facereel.console import Console
from facereel.data.contact_sheet import Line, draw_sheet, save_sheet
from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.names import spelling_key
from facereel.retrieval.cluster import default_threshold
from facereel.retrieval.export_people import export_people
from facereel.retrieval.groups import Group, make_groups, saved_groups
from facereel.retrieval.track_index import Track, TrackIndex
from facereel.video.image_file import Unreadable, read_picture

# Groups and tracks of each in the contact sheet: what a picture of 1,300 by 6,400 pixels holds.
SHEET_GROUPS = 60
SHEET_TRACKS = 10
# Longer than any name of a person.
_LONGEST_NAME = 200

console = Console(highlight=False, soft_wrap=True, markup=False)


def run_cluster(
    folder: Path,
    *,
    threshold: float | None,
    names: Sequence[str],
    merges: Sequence[str],
    min_tracks: int,
    sheet: Path | None,
    export: Path | None,
    everyone: bool,
) -> None:
    """Group tracks, or name, merge, draw and export groups; see `facereel cluster --help`.

    Raises:
        UserError: for a mistake in the options, or an index without tracks.
    """
    index = TrackIndex(folder)
    to_name, to_merge = _parse_names(names), [_parse_merge(merge) for merge in merges]
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g}: must be in 0..1, the share of bits that differ")
    if threshold is not None and (to_name or to_merge):
        raise UserError("--threshold makes new groups with new numbers: name and merge them in a run of their own")
    if everyone and export is None:
        raise UserError("--all goes with --export")
    n_tracks = len(index)
    if not n_tracks:
        raise UserError(f"the index in {folder} holds no tracks: facereel index adds some")
    groups = _groups(index, n_tracks, threshold, edits=bool(to_name or to_merge), export=export is not None)
    if to_name or to_merge:
        for numbers in to_merge:
            _check(groups, numbers, "--merge")
        _check(groups, list(to_name), "--name")
        _merge(index, groups, to_merge)
        _name(index, saved_groups(index), to_name)
        groups = saved_groups(index)
    _print(groups, min_tracks)
    shown = [group for group in groups if len(group.tracks) >= min_tracks]
    if sheet is not None:
        _draw(index, shown, sheet)
    if export is not None:
        _export(index, shown, export, everyone)


def _groups(index: TrackIndex, n_tracks: int, threshold: float | None, *, edits: bool, export: bool) -> list[Group]:
    """The saved groups where numbers that were seen are meant, else new ones."""
    if threshold is None and (edits or export):
        groups = saved_groups(index)
        if groups:
            n_new = n_tracks - sum(len(group.tracks) for group in groups)
            if n_new:
                console.print(
                    f"note: {n_new} tracks are in no group, as they were added since: "
                    f"facereel cluster --index {index.folder} makes groups anew"
                )
            return groups
        if edits:
            raise UserError(f"there are no groups to name or merge: facereel cluster --index {index.folder} makes them")
    if threshold is None:
        threshold = default_threshold(n_tracks)
        if not index.about.get("calibration"):
            console.print(
                "note: the default threshold was chosen for the model that needs no training, and this index has "
                "another: look at the groups with --sheet, and set --threshold"
            )
    groups = make_groups(index, threshold)
    console.print(f"groups of tracks no farther apart than {threshold:.3f} in the mean:")
    return groups


def _parse_names(options: Sequence[str]) -> dict[int, str | None]:
    names: dict[int, str | None] = {}
    for option in options:
        number, equals, name = option.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[0-9]{1,9}", number.strip()):
            raise UserError(f'--name {option}: must be a group\'s number and a name, as in --name 3="Ada Lovelace"')
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise UserError(f"--name {option!a}: a name has at most {_LONGEST_NAME} characters, all of them printable")
        if int(number) in names:
            raise UserError(f"--name {option}: group {int(number)} is given two names")
        names[int(number)] = name or None
    return names


def _parse_merge(option: str) -> list[int]:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)+", option):
        raise UserError(f"--merge {option}: must be numbers of groups, as in --merge 3,7")
    return [int(number) for number in option.split(",")]


def _check(groups: list[Group], numbers: list[int], option: str) -> None:
    for number in numbers:
        if number not in {group.number for group in groups}:
            raise UserError(f"{option}: there is no group {number}; they go from 1 to {groups[-1].number}")


def _merge(index: TrackIndex, groups: list[Group], merges: Sequence[list[int]]) -> None:
    """Give groups the smallest number among them; several merges may share one."""
    becomes = {group.number: group.number for group in groups}
    for numbers in merges:
        together = {becomes[number] for number in numbers}
        becomes = {number: min(together) if to in together else to for number, to in becomes.items()}
    if merges:
        index.set_clusters({track.id: becomes[group.number] for group in groups for track in group.tracks})


def _name(index: TrackIndex, groups: list[Group], names: dict[int, str | None]) -> None:
    by_number = {group.number: group for group in groups}
    for number, name in names.items():
        if number not in by_number:
            raise UserError(f"--name: group {number} was merged with one of a smaller number: give that the name")
        group = by_number[number]
        index.name([track.id for track in group.tracks], name)
        before = [old for old in group.names if old != name]
        said = f" (before: {', '.join(before)})" if before else ""
        console.print(f"group {number}: {len(group.tracks)} tracks named {name or 'nobody'}{said}")
    _print_alike(index, {name for name in names.values() if name})


def _print_alike(index: TrackIndex, names: set[str]) -> None:
    """Hint at people in the index whose names look like those that were given now."""
    known = sorted({track.person for track in index.tracks() if track.person is not None})
    for name in sorted(names):
        alike = [other for other in known if other != name and spelling_key(other) == spelling_key(name)]
        if alike:
            console.print(
                f'note: "{name}" looks like {_quoted(alike)}, and is treated as another person: '
                "name the group the same if it is one person"
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _title(group: Group) -> str:
    if group.proposal is not None:
        return f"{group.proposal}? ({len(group.tracks) - len(group.unnamed)} of {len(group.tracks)} bear it)"
    return ", ".join(group.names)


def _print(groups: list[Group], min_tracks: int) -> None:
    shown = [group for group in groups if len(group.tracks) >= min_tracks]
    if shown:
        console.print(f"{'group':>6}{'tracks':>8}{'videos':>8}{'seconds':>10}  name")
    for group in shown:
        console.print(
            f"{group.number:6} {len(group.tracks):7} {group.n_videos:7} {group.seconds:9.1f}  {_title(group)}".rstrip()
        )
    hidden = len(groups) - len(shown)
    console.print(
        f"{len(groups)} groups of {sum(len(group.tracks) for group in groups)} tracks"
        + (f"; {hidden} of fewer than {min_tracks} tracks are not listed" if hidden else "")
    )


def _draw(index: TrackIndex, groups: list[Group], path: Path) -> None:
    lines = []
    for group in groups[:SHEET_GROUPS]:
        tracks = [group.tracks[i] for i in evenly_spaced(range(len(group.tracks)), SHEET_TRACKS)]
        there = [(track, file) for track in tracks if (file := index.open_thumbnail(track.id)) is not None]
        pictures = [(track, read_picture(file)) for track, file in there]
        readable = [(track, picture) for track, picture in pictures if not isinstance(picture, Unreadable)]
        lines.append(
            Line(
                f"{group.number}: {len(group.tracks)} tracks".ljust(24) + _title(group),
                [picture for _, picture in readable],
                [track.person is not None for track, _ in readable],
            )
        )
    if not lines:
        raise UserError("there is no group to draw: lower --min-tracks")
    save_sheet(draw_sheet(lines, "has a name", "has none"), path)
    left_out = len(groups) - len(lines)
    console.print(f"contact sheet: {path}" + (f", without the {left_out} smaller groups" if left_out else ""))


def _export(index: TrackIndex, groups: list[Group], out: Path, everyone: bool) -> None:
    people: dict[str, list[Track]] = {}
    for track in index.tracks():
        if track.person is not None:
            people.setdefault(track.person, []).append(track)
    if everyone:
        for group in groups:
            if group.proposal is not None or (group.names and group.unnamed):
                # As a person of their own they would teach a model to tell someone from themselves.
                console.print(
                    f"note: {len(group.unnamed)} tracks of group {group.number} are left out, being perhaps "
                    f"{' or '.join(group.names)}: name the group"
                )
            elif group.unnamed:
                label = f"group_{group.number:04}"
                if label in people:
                    raise UserError(f"a person is named {label}, as an unnamed group is called: name one of them anew")
                people[label] = group.unnamed
    if not people:
        raise UserError("nobody has a name to be exported under: give some with --name, or take all groups with --all")
    done = export_people(people, out)
    for clip, other in done.moved.items():
        console.print(f"note: {clip} is in clips/{other} too, from an export before: delete what is wrong")
    console.print(
        f"{out}: {done.n_people} people; {done.n_made} clips written now, {done.n_before} there before\n"
        f"train on it: facereel train data=folder data.root={out}"
    )
