"""People of an index as a folder to train on: OUT/clips/PERSON/CLIP/0000.jpg, a clip a track."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import cv2

from facereel.errors import UserError
from facereel.retrieval.track_crops import CropReader, read_crops
from facereel.retrieval.track_index import Track
from facereel.video.detector import Image

# File systems take names of 255 bytes; some sync programs and encrypted folders fewer.
_LONGEST = 120
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
# Windows keeps these for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_JPEG_QUALITY = 95
# Digits at the end of a clip's name that tell its track from all others.
_OF_TRACK = 12


@dataclass
class Exported:
    """What a run of `export_people` did."""

    n_people: int = 0
    n_made: int = 0
    n_before: int = 0
    """Clips that were there."""
    moved: dict[str, str] = field(default_factory=dict)
    """Clips, as PERSON/CLIP, and another person's folder that has them from an earlier export."""


def export_people(people: Mapping[str, Sequence[Track]], out: Path, crops_of: CropReader = read_crops) -> Exported:
    """Write people's tracks as clips. A clip appears whole or not at all; one that is there is left as it is.

    Args:
        people: tracks under names.
        out: the folder, which may hold other people and clips. Nothing in it is deleted.
        crops_of: reads a track's crops.

    Raises:
        UserError: if a name makes no folder, two make the same, a file is in the way, or crops cannot be read.
    """
    folders = folder_names(people)
    done = Exported(n_people=len(people))
    clips = out / "clips"
    there: dict[str, list[str]] = defaultdict(list)
    for path in (out, clips, *(clips / folder for folder in folders.values())):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: it is in the way of a folder of that name")
    for found in sorted(clips.glob("*/*")):
        there[found.name[-_OF_TRACK:]].append(found.parent.name)
    wanted: dict[int, Path] = {}
    for person, tracks in people.items():
        for track in tracks:
            place = clips / folders[person] / clip_name(track)
            held = there[place.name[-_OF_TRACK:]]
            for other in held:
                if other != place.parent.name:
                    done.moved[f"{place.parent.name}/{place.name}"] = other
            if place.parent.name in held:
                done.n_before += 1
            else:
                wanted[track.id] = place
    for track, crops in crops_of([track for tracks in people.values() for track in tracks if track.id in wanted]):
        _write_clip(crops, wanted[track.id], out)
        done.n_made += 1
    return done


def folder_names(people: Mapping[str, object] | Sequence[str]) -> dict[str, str]:
    """A folder's name for each person.

    Raises:
        UserError: if a name makes none, or two make the same on some file system.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for person in people:
        names[person] = folder_name(person)
        other = taken.setdefault(names[person].casefold(), person)
        if other != person:
            raise UserError(
                f"{other!r} and {person!r} would share the folder {names[person]}: give one of them another name"
            )
    return names


def folder_name(person: str) -> str:
    """A name as every file system takes it, no hidden one, with _ for what is not allowed.

    Raises:
        UserError: if nothing is left.

    Examples:
        >>> folder_name("../etc/passwd"), folder_name("Ada Lovelace")
        ('_._etc_passwd', 'Ada Lovelace')
    """
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", person)).strip()
    if not name.strip("._ "):
        raise UserError(f"the name {person!r} makes no folder: give another with facereel cluster --name")
    if name.startswith("."):
        name = "_" + name[1:]
    if len(name.encode()) > _LONGEST:
        # What is cut off may be all that tells two from each other.
        name = f"{_cut(name, _LONGEST - 9)}-{_hash(person)[:8]}"
    if name.endswith(".") or _DEVICES.fullmatch(name):
        name += "_"
    return name


def clip_name(track: Track) -> str:
    """A folder's name for a track: the same from export to export, and of no other track.

    After a video was renamed only the end of it, the hash, is the same.
    """
    stem = _cut(re.sub(r"[^\w-]", "_", PurePath(track.video).stem), 60)
    video = track.content or track.video
    return f"{stem}-{track.number:04}-{_hash(f'{video} {track.number} {track.start_s} {track.end_s}')[:_OF_TRACK]}"


def _write_clip(crops: Sequence[Image], place: Path, out: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # In OUT, where no reader looks and from where it can be renamed.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        beside = Path(folder) / "clip"
        beside.mkdir()
        for i, crop in enumerate(crops):
            _, content = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            (beside / f"{i:04}.jpg").write_bytes(content.tobytes())
        try:
            os.rename(beside, place)
        except OSError:
            if not place.is_dir():  # another export was faster
                raise


def _cut(text: str, n_bytes: int) -> str:
    return text.encode(errors="replace")[:n_bytes].decode(errors="ignore").strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
