"""Export people of an index to a folder for training: OUT/clips/PERSON/CLIP/0000.jpg, one clip per track."""

import hashlib
import re
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from facereel.errors import UserError
from facereel.retrieval.track_crops import CropReader, read_crops
from facereel.retrieval.track_index import Track
from facereel.video.detector import Image
from facereel.video.image_file import encode_jpeg

# Maximum length of a name in bytes: file systems allow 255, some sync programs and encrypted folders fewer.
_LONGEST = 120
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
# Windows reserves these names for devices, with any extension.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Number of digits at the end of a clip's name that identify its track.
_OF_TRACK = 12


@dataclass
class ExportReport:
    """The result of `export_people`."""

    n_people: int = 0
    n_made: int = 0
    n_before: int = 0
    """Number of clips that existed before."""
    moved: dict[str, str] = field(default_factory=dict)
    """For each clip, as PERSON/CLIP, another person's folder that has it from an earlier export."""


def export_people(people: Mapping[str, Sequence[Track]], out: Path, crops_of: CropReader = read_crops) -> ExportReport:
    """Write the tracks of people as clips, each atomically; existing clips are not changed.

    Args:
        people: tracks by name.
        out: the folder, which may contain other people and clips. Nothing in it is deleted.
        crops_of: reads the crops of tracks.

    Returns:
        The numbers of people and clips.

    Raises:
        UserError: if a name is unusable as a folder name, two names give the same folder, a file is in the way, or
            crops cannot be read.
    """
    folders = folder_names(people)
    done = ExportReport(n_people=len(people))
    clips = out / "clips"
    for path in (out, clips, *(clips / folder for folder in folders.values())):
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot create the folder {path}: a file of that name exists. Move or delete it")
    folders_with: dict[str, list[str]] = defaultdict(list)
    for found in sorted(clips.glob("*/*")):
        folders_with[found.name[-_OF_TRACK:]].append(found.parent.name)
    wanted: dict[int, tuple[Track, Path]] = {}
    for person, tracks in people.items():
        for track in tracks:
            name = clip_name(track)
            before = folders_with[name[-_OF_TRACK:]]
            done.moved |= {f"{folders[person]}/{name}": other for other in before if other != folders[person]}
            if folders[person] in before:
                done.n_before += 1
            else:
                wanted[track.id] = track, clips / folders[person] / name
    for track, crops in crops_of([track for track, _ in wanted.values()]):
        _write_clip(crops, wanted[track.id][1], out)
        done.n_made += 1
    return done


def folder_names(people: Iterable[str]) -> dict[str, str]:
    """Choose a folder name for each person.

    Args:
        people: names of people.

    Returns:
        The folder names by person.

    Raises:
        UserError: if a name is unusable as a folder name, or two are equal on some file system.
    """
    names = {person: folder_name(person) for person in people}
    taken: dict[str, str] = {}
    for person, name in names.items():
        other = taken.setdefault(name.casefold(), person)
        if other != person:
            raise UserError(f"{other!r} and {person!r} would share the folder {name}: rename one of them")
    return names


def folder_name(person: str) -> str:
    """Return a name that is valid and visible on every file system; _ replaces other characters.

    Args:
        person: name of the person.

    Raises:
        UserError: if no character is left.

    Examples:
        >>> folder_name("../etc/passwd"), folder_name("Ada Lovelace")
        ('_._etc_passwd', 'Ada Lovelace')
    """
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", person)).strip()
    if not name.strip("._ "):
        raise UserError(f"the name {person!r} cannot be a folder name: choose another name")
    if name.startswith("."):
        name = "_" + name[1:]
    if len(name.encode()) > _LONGEST:
        # Two long names may differ only in the part that is dropped.
        name = f"{_truncated(name, _LONGEST - 9)}-{_hash(person)[:8]}"
    if name.endswith(".") or _DEVICES.fullmatch(name):
        name += "_"
    return name


def clip_name(track: Track) -> str:
    """Return a folder name for a track that is unique and the same in every export.

    After a video was renamed, only the hash at the end of the name stays the same.
    """
    stem = _truncated(re.sub(r"[^\w-]", "_", PurePath(track.video).stem), 60)
    video = track.content or track.video
    return f"{stem}-{track.number:04}-{_hash(f'{video} {track.number} {track.start_s} {track.end_s}')[:_OF_TRACK]}"


def _write_clip(crops: Sequence[Image], place: Path, out: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # In OUT, which readers ignore, and which is on the same drive.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        clip = Path(folder) / "clip"
        clip.mkdir()
        for i, crop in enumerate(crops):
            (clip / f"{i:04}.jpg").write_bytes(encode_jpeg(crop))
        try:
            clip.rename(place)
        except OSError:
            if not place.is_dir():  # another export was faster
                raise


def _truncated(text: str, n_bytes: int) -> str:
    return text.encode(errors="replace")[:n_bytes].decode(errors="ignore").strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
