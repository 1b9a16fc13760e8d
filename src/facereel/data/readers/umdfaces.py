"""UMDFaces: stills and frames of videos."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from facereel.data.manifest import Row
from facereel.data.readers.csv_table import PeopleTable, numbers, slashes
from facereel.data.readers.listing import entries, existing, face_box, images_below, natural
from facereel.errors import UserError
from facereel.system.skipped import Skipped

_BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
# The eyes, the nose and the mouth's corners among the 21 points. We ignore VIS, whether a point is visible: hidden
# points have a position too, and a face is aligned by all five.
_POINTS = tuple(f"P{point}{axis}" for point in (8, 11, 15, 18, 20) for axis in "XY")
_COLUMNS = ("FILE", *_BOX, *_POINTS)


class _Part(NamedTuple):
    name: str
    """Prefix of keys; empty for videos."""
    folder: Path
    table: PeopleTable


def read_umdfaces(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read the stills of UMDFaces (Bansal, Nanduri, Castillo, Ranjan and Chellappa, IJCB 2017).

    People are identified by the names of their folders: SUBJECT_ID starts again in every batch.

    Args:
        root: folder with one or more of umdfaces_batch1 to umdfaces_batch3, or one of these folders.
        skipped: counts unreadable rows, duplicate rows and rows without an image, and people and images that are only
            in the CSV file or only in the folder.

    Yields:
        A row for each still, by person, batch and name. FACE_X and FACE_Y are the box's TOP LEFT corner.

    Raises:
        UserError: if there is no batch, or a CSV file lacks a column.
    """
    root = existing(root)
    parts = []
    for name in ("umdfaces_batch1", "umdfaces_batch2", "umdfaces_batch3"):
        folder = root / name if (root / name).is_dir() else root
        table = folder / f"{name}_ultraface.csv"
        if table.is_file():
            parts.append(_Part(name, folder, PeopleTable(table, _COLUMNS, skipped)))
        elif folder != root:
            skipped.add("batch without its CSV file", f"{name}/{table.name}")
    if not parts:
        raise UserError(f"there is no umdfaces_batchN/umdfaces_batchN_ultraface.csv, N = 1 to 3, in {root}")
    yield from _read(parts, skipped, videos=False)


def read_umdfaces_videos(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read the frames of UMDFaces' videos (Bansal, Castillo, Ranjan and Chellappa, ICCV workshops 2017).

    Args:
        root: folder with umdfaces_videos_ultraface.csv and the folders of people, or its parent folder.
        skipped: counts the same as in `read_umdfaces`.

    Yields:
        A row for each frame, by person, video and the number in the frame's name. The first part of FILE is the person,
        the last but one is the video.

    Raises:
        UserError: if there is no CSV file, or it lacks a column.
    """
    root = existing(root)
    name = "umdfaces_videos_ultraface.csv"
    table = next((path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_file()), None)
    if table is None:
        raise UserError(f"there is no {name} in {root}")
    yield from _read([_Part("", table.parent, PeopleTable(table, _COLUMNS, skipped))], skipped, videos=True)


def _read(parts: list[_Part], skipped: Skipped, videos: bool) -> Iterator[Row]:
    folders: list[set[str]] = []
    for part in parts:
        names, files = entries(part.folder, skipped, part.name)
        folders.append(set(names))
        for file in files:
            if file != part.table.path.name:
                skipped.add("file outside a person's folder", _under(part, file))
    people = {person for names in (*folders, *(part.table.people for part in parts)) for person in names}
    for person in sorted(sorted(people), key=natural):
        for part, people_in_part in zip(parts, folders, strict=True):
            if person in people_in_part:
                yield from _read_person(part, person, skipped, videos)
            elif person in part.table.people:
                skipped.add("person in the CSV file without a folder", _under(part, person))


def _read_person(part: _Part, person: str, skipped: Skipped, videos: bool) -> list[Row]:
    present = set(images_below(part.folder / person, skipped, _under(part, person)))
    rows: dict[str, Row] = {}
    named: set[str] = set()
    for file, *cells in part.table.rows(person):
        path = slashes(file)
        key, places = _under(part, path), path.split("/")
        box = numbers(cells[:4])
        face = None if box is None else face_box(box[0], box[1], box[2], box[3])
        named.add(key)
        if face is None or len(places) < (3 if videos else 2):
            part.table.cannot_read(file)
        elif key not in present:
            skipped.add("row without its image", key)
        elif key in rows:
            skipped.add("duplicate row", key)
        else:
            clip = places[-2] if videos else ""
            rows[key] = Row(
                person, clip, clip or key, key, f"{part.folder}/{path}", box=face, landmarks=numbers(cells[4:])
            )
    for key in sorted(present - named):
        skipped.add("image without a row", key)
    clips = {clip: (natural(clip), clip) for clip in {row.clip for row in rows.values()}}
    # The key comes last and breaks ties: 1 and 01 are equal numbers.
    return sorted(rows.values(), key=lambda row: (clips[row.clip], natural(row.key.rpartition("/")[2]), row.key))


def _under(part: _Part, path: str) -> str:
    return f"{part.name}/{path}" if part.name else path
