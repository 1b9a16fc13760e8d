"""Manifest rows to people, clips and stills with their crops in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from facereel.data.crops import load_crops
from facereel.data.manifest import Row, Skipped
from facereel.errors import UserError


@dataclass(frozen=True)
class Clip:
    """A sequence of face crops of one person, from one source video."""

    person: int
    source: str
    key: str
    rows: tuple[int, ...]
    """Rows of `FaceSet.crops`, in time order."""


@dataclass(frozen=True)
class Still:
    """One face picture."""

    person: int
    source: str
    key: str
    row: int


@dataclass(frozen=True)
class FaceSet:
    """Everything read from a data set."""

    people: list[str]
    crops: Tensor
    """(N, 1 or 3, S, S) uint8."""
    rows: list[Row]
    """(N,) what each crop is."""
    clips: list[Clip]
    stills: list[Still]
    skipped: Skipped = field(default_factory=Skipped)
    note: str = ""
    """What a reader of the figures must know about this data."""

    def frame_as_still(self, clip: Clip, row: int) -> Still:
        """Use a frame of a clip as a still of the same source."""
        return Still(clip.person, clip.source, self.rows[row].key, row)

    def summary(self) -> str:
        """One line of counts."""
        frames = sum(len(clip.rows) for clip in self.clips)
        return (
            f"{len(self.people)} people, {len(self.clips)} clips with {frames} frames from "
            f"{len({clip.source for clip in self.clips})} sources, {len(self.stills)} stills"
        )


def load_faces(
    rows: Iterable[Row],
    skipped: Skipped,
    *,
    size: int = 64,
    margin: float = 1.0,
    still_crop: float = 1.0,
    grey: bool = False,
    max_frames: int = 30,
    note: str = "",
) -> FaceSet:
    """Decode the crops of a manifest and group them.

    Args:
        rows: of a manifest; the frames of a clip in time order.
        skipped: counts what does not decode.
        size: side of a crop in pixels.
        margin: the crop's side over the face box's longer side.
        still_crop: the face box of a still without one, as a central share of its sides.
        grey: keep the luma only.
        max_frames: of a longer clip so many frames are taken, evenly spaced; about 30 in the DHH paper.
        note: kept with the data set, for reports.

    Returns:
        The data set, with people in the order of their names.

    Raises:
        UserError: if nothing is left.
    """
    if size < 1 or max_frames < 1:
        raise UserError(f"data.size={size} and data.max_frames={max_frames} must be at least 1")
    kept = _limit_frames(list(rows), max_frames)
    crops, decoded = load_crops(kept, size, margin, still_crop, grey)
    for row, good in zip(kept, decoded, strict=True):
        if not good:
            skipped.add("picture that does not decode", row.key)
    order = [i for i, good in enumerate(decoded) if good]
    if not order:
        reasons = "; ".join(skipped.lines()) or "there are no pictures in it"
        raise UserError(f"the data set is empty: {reasons}")
    kept, crops = [kept[i] for i in order], crops[order]
    people = sorted({row.person for row in kept})
    number = {name: i for i, name in enumerate(people)}
    clips: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    stills: list[Still] = []
    for i, row in enumerate(kept):
        # A source is a person's own: two people may both have a video called 1.
        source = f"{row.person}/{row.source}"
        if row.clip:
            clips[row.person, source, row.clip].append(i)
        else:
            stills.append(Still(number[row.person], source, row.key, i))
    grouped = [
        Clip(number[person], source, f"{person}/{name}", tuple(members))
        for (person, source, name), members in clips.items()
    ]
    return FaceSet(people, crops, kept, grouped, stills, skipped, note)


def evenly_spaced(items: Sequence[int], count: int) -> list[int]:
    """At most `count` items, the first and the last among them if count > 1."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _limit_frames(rows: list[Row], max_frames: int) -> list[Row]:
    members: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    keep: list[int] = []
    for i, row in enumerate(rows):
        if row.clip:
            members[row.person, row.source, row.clip].append(i)
        else:
            keep.append(i)
    for frames in members.values():
        keep.extend(evenly_spaced(frames, max_frames))
    return [rows[i] for i in sorted(keep)]
