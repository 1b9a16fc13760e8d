"""Any folder of faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2

from facereel.data.manifest import Row, Skipped
from facereel.data.readers.listing import PICTURES, VIDEOS, existing, folders, natural
from facereel.data.readers.stills import read_stills


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
    root = existing(root, "data.root")
    for person in folders(existing(root / "clips", "data.root")):
        for entry in sorted(person.iterdir()):
            key = f"clips/{person.name}/{entry.name}"
            if entry.is_dir():
                for file in sorted(entry.iterdir(), key=natural):
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


def _count_frames(file: Path) -> int:
    capture = cv2.VideoCapture(str(file))
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
    finally:
        capture.release()
