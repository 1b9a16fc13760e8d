"""YouTube Faces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row, Skipped
from facereel.data.readers.listing import PICTURES, existing, folders

# A side in pixels that no video frame reaches.
_LARGEST_BOX = 20_000.0


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
    root = existing(root, "data.root")
    frames_root = root / "frame_images_DB" if (root / "frame_images_DB").is_dir() else root
    people = folders(frames_root)
    known = {person.name for person in people}
    for labels in sorted(frames_root.glob("*.labeled_faces.txt")):
        if labels.name.removesuffix(".labeled_faces.txt") not in known:
            skipped.add("label file of a person without a folder", labels.name)
    for person in people:
        labels = frames_root / f"{person.name}.labeled_faces.txt"
        if not labels.is_file():
            skipped.add("person without a labeled_faces.txt", person.name)
            continue
        present = {video.name: set(os.listdir(video)) for video in folders(person)}
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
