"""The manifest: one row a picture, whatever data set it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from facereel.files import write_beside


class Row(NamedTuple):
    """A frame of a clip, or a still."""

    person: str
    clip: str
    """Name of the clip, unique to the person; empty for a still."""
    source: str
    """Where the picture was taken from: the source video of a frame, unique to the person. Two pictures of one source
    never stand on both sides of a search."""
    key: str
    """Names the picture in split files: the same on every machine."""
    file: str
    position: int = -1
    """Frame number in a video file; -1 for a picture file."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height of the face in pixels; None if unknown."""
    share: float = 1.0
    """Where there is no box: the face is this central share of the picture's width and height."""
    landmarks: tuple[float, ...] | None = None
    """x and y in pixels of five points: the eyes, the nose, the mouth's corners, of each pair first the one that is on
    the left in the picture. None if unknown."""


class Skipped:
    """What was left out and why: a count and the first few names of each kind."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one more of a kind."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.EXAMPLES:
            examples.append(name)

    def lines(self) -> list[str]:
        """One line a kind, most frequent first."""
        lines = []
        for kind, count in self.counts.most_common():
            more = ", ..." if count > self.EXAMPLES else ""
            lines.append(f"{count} x {kind} ({', '.join(self.examples[kind])}{more})")
        return lines


def write_manifest(rows: Iterable[Row], path: Path) -> None:
    """Write rows as Parquet, with the box in four columns and the landmarks as a list (null where unknown)."""
    rows = list(rows)
    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("person", "clip", "source", "key", "file", "position", "share")
    }
    for i, name in enumerate(("box_left", "box_top", "box_width", "box_height")):
        columns[name] = [None if row.box is None else float(row.box[i]) for row in rows]
    columns["landmarks"] = [row.landmarks for row in rows]
    with write_beside(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")
