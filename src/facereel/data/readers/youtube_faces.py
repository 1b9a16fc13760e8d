"""YouTube Faces."""

import re
from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing, face_box, images
from facereel.errors import UserError
from facereel.system.skipped import Skipped

_LABELS = ".labeled_faces.txt"
_FOLDERS = {"frames": "frame_images_DB", "aligned": "aligned_images_DB"}
# The number before the file extension; longer numbers are not frame numbers.
_FRAME = re.compile(r"\.(\d{1,9})\.\w+$")


def read_youtube_faces(
    root: str | Path, skipped: Skipped, images: str = "auto", aligned_fraction: float = 1 / 2.2
) -> Iterator[Row]:
    """Read YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011).

    Args:
        root: folder with frame_images_DB or aligned_images_DB, or one of these folders.
        skipped: counts label lines without a frame, unreadable lines, frames and people without labels, and
            duplicates.
        images: "frames" reads frame_images_DB, with a box for each frame; "aligned" reads aligned_images_DB, without
            boxes; "auto" reads frames where they are present.
        aligned_fraction: fraction of an aligned image's sides, around its center, that the face fills. An aligned
            image is the face box enlarged 2.2 times.

    Yields:
        A row for each frame, by person, video and frame number. A label line gives the box's CENTER.

    Raises:
        UserError: if the folder or the requested images do not exist, or an argument is out of range.
    """
    if images not in ("auto", *_FOLDERS):
        raise UserError(f"images={images}: must be one of auto, {', '.join(_FOLDERS)}")
    if not 0 < aligned_fraction <= 1:
        raise UserError(f"aligned_fraction={aligned_fraction}: must be above 0 and at most 1")
    root, images = _find(existing(root), images)
    people, files = entries(root, skipped)
    labels = {file.removesuffix(_LABELS) for file in files if file.endswith(_LABELS) and images == "frames"}
    for file in files:
        if file.removesuffix(_LABELS) not in labels:
            skipped.add("file outside a person's folder", file)
    for person in sorted(labels.difference(people)):
        skipped.add("label file of a person without a folder", person + _LABELS)
    for person in people:
        if images == "aligned":
            yield from _aligned(root, person, skipped, aligned_fraction)
        elif person in labels:
            yield from _frames(root, person, skipped)
        else:
            skipped.add("person without a labeled_faces.txt", person)


def _find(root: Path, images: str) -> tuple[Path, str]:
    """Return the folder of people, and whether it has frames or aligned images.

    Raises:
        UserError: if there is no such folder.
    """
    wanted = [kind for kind in _FOLDERS if images in ("auto", kind)]
    for kind in wanted:
        if (root / _FOLDERS[kind]).is_dir():
            return root / _FOLDERS[kind], kind
    for kind in wanted:
        # A copy of frame_images_DB under another name is recognized by its label files.
        if root.resolve().name == _FOLDERS[kind] or (kind == "frames" and any(root.glob(f"*{_LABELS}"))):
            return root, kind
    names = " or ".join(_FOLDERS[kind] for kind in wanted)
    raise UserError(f"there is no {names} in {root} (images={images})")


def _videos(root: Path, person: str, skipped: Skipped) -> Iterator[tuple[str, list[str]]]:
    """Yield the videos of a person, each with the names of its frames."""
    videos, strays = entries(root / person, skipped, person)
    for file in strays:
        skipped.add("file outside a video's folder", f"{person}/{file}")
    for video in videos:
        yield video, images(f"{root}/{person}/{video}", skipped, f"{person}/{video}")


def _aligned(root: Path, person: str, skipped: Skipped, central_fraction: float) -> Iterator[Row]:
    for video, names in _videos(root, person, skipped):
        frames: dict[int, str] = {}
        for name in names:
            number = _FRAME.search(name)
            if number is None:
                skipped.add("frame without a number", f"{person}/{video}/{name}")
            elif frames.setdefault(int(number[1]), name) != name:
                skipped.add("duplicate frame number", f"{person}/{video}/{name}")
        for _, name in sorted(frames.items()):
            key = f"{person}/{video}/{name}"
            yield Row(person, video, video, key, f"{root}/{key}", central_fraction=central_fraction)


def _frames(root: Path, person: str, skipped: Skipped) -> Iterator[Row]:
    videos = dict(_videos(root, person, skipped))
    # By video: names of frames without a line so far, and rows.
    unnamed = {video: set(names) for video, names in videos.items()}
    present = {video: frozenset(names) for video, names in videos.items()}
    rows: dict[str, dict[int, Row]] = {video: {} for video in videos}
    try:
        # Names that are not UTF-8 match no frame: such frames are not listed either.
        text = (root / (person + _LABELS)).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        skipped.add("label file that cannot be read", person + _LABELS)
        return
    for line in text.split("\n"):
        if not line.strip():
            continue
        parsed = _read_line(line)
        if parsed is None:
            skipped.add("label line that cannot be read", f"{person}{_LABELS}: {line.strip()[:60]}")
            continue
        video, name, frame, box = parsed
        key = f"{person}/{video}/{name}"
        if name not in present.get(video, ()):
            skipped.add("label line without its frame", key)
        elif frame in rows[video]:
            skipped.add("duplicate label line", key)
        else:
            unnamed[video].discard(name)
            rows[video][frame] = Row(person, video, video, key, f"{root}/{key}", box=box)
    for video, names in unnamed.items():
        for name in sorted(names):
            number = _FRAME.search(name)
            again = number is not None and int(number[1]) in rows[video]
            kind = "duplicate frame number" if again else "frame without a label line"
            skipped.add(kind, f"{person}/{video}/{name}")
        yield from (row for _, row in sorted(rows[video].items()))


def _read_line(line: str) -> tuple[str, str, int, tuple[float, float, float, float]] | None:
    fields = line.split(",")
    path = fields[0].strip().replace("\\", "/").split("/")
    frame = _FRAME.search(path[-1])
    if len(fields) < 6 or len(path) < 3 or frame is None:
        return None
    try:
        x, y, width, height = map(float, fields[2:6])
    except ValueError:
        return None
    box = face_box(x - width / 2, y - height / 2, width, height)
    return None if box is None else (path[-2], path[-1], int(frame[1]), box)
