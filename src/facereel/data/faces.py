"""Manifest rows and their crops to people, clips and stills."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.data.crops import Outcome
from facereel.data.manifest import Manifest, Row, Skipped
from facereel.data.store import CropStore
from facereel.errors import UserError

# How a longer clip is cut to at most so many frames.
CUTS = ("even", "random", "pieces")

# ITU-R BT.601 luma, in units of 1 / 2^14.
_LUMA = torch.tensor([4899, 9617, 1868], dtype=torch.int32).view(3, 1, 1)


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
    crops: Tensor | CropStore
    """(N, 3, S, S) uint8."""
    rows: Manifest | Sequence[Row]
    """(N,) what each crop is; kept as a `Manifest`."""
    clips: list[Clip]
    stills: list[Still]
    skipped: Skipped = field(default_factory=Skipped)
    note: str = ""
    """What a reader of the figures must know about this data."""
    grey: bool = False
    """Pictures are handed out as their luma."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """In how many pictures the face was found in which way."""

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Manifest):
            object.__setattr__(self, "rows", Manifest.from_rows(self.rows))

    def pictures(self, rows: Sequence[int]) -> Tensor:
        """(n, 3, S, S) uint8, RGB; three equal channels if grey."""
        pictures = self.crops[torch.tensor(rows, dtype=torch.int64)]
        if not self.grey:
            return pictures
        luma = (pictures.to(torch.int32) * _LUMA).sum(dim=1, keepdim=True)
        return ((luma + 2**13) >> 14).to(torch.uint8).expand(-1, 3, -1, -1)

    def frames_as_stills(self, clip: Clip, rows: Sequence[int] | None = None) -> list[Still]:
        """Use frames of a clip, or some of its rows, as stills of the same source."""
        rows = clip.rows if rows is None else rows
        return [
            Still(clip.person, clip.source, key, row) for key, row in zip(self.column("key", rows), rows, strict=True)
        ]

    def used_rows(self) -> Manifest:
        """The rows of clips and stills."""
        assert isinstance(self.rows, Manifest)
        used = [row for clip in self.clips for row in clip.rows] + [still.row for still in self.stills]
        return self.rows.take(np.unique(np.array(used, np.int64)))

    def column(self, name: str, rows: Sequence[int]) -> list[Any]:
        """A column of the manifest at some rows."""
        assert isinstance(self.rows, Manifest)
        values: list[Any] = self.rows.table[name].take(pa.array(rows, pa.int64())).to_pylist()
        return values

    def summary(self) -> str:
        """One line of counts."""
        frames = sum(len(clip.rows) for clip in self.clips)
        return (
            f"{len(self.people)} people, {len(self.clips)} clips with {frames} frames from "
            f"{len({clip.source for clip in self.clips})} sources, {len(self.stills)} stills"
        )

    def lines(self) -> list[str]:
        """What a reader of the counts must know: how faces were found, and what was left out."""
        return [*(f"{count} x {outcome}" for outcome, count in self.outcomes.items()), *self.skipped.lines()]


class Selection(NamedTuple):
    """What of a manifest is used."""

    clips: list[tuple[str, str, str, NDArray[np.int64]]]
    """Person, source, clip's name, and its rows in time order."""
    stills: NDArray[np.int64]
    """Rows."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """All rows, rising."""
        return np.unique(np.concatenate([self.stills, *(rows for *_, rows in self.clips)]))


def select(
    manifest: Manifest,
    good: NDArray[np.bool_] | None = None,
    *,
    max_frames: int = 30,
    frames: str = "even",
    n_people: int | None = None,
    seed: int = 0,
) -> Selection:
    """Choose the people and frames of a data set.

    Args:
        manifest: its rows; the frames of a clip in time order.
        good: (N,) rows that may be used; None if all.
        max_frames: at most so many frames a clip; about 30 in the DHH paper.
        frames: of a longer clip, "even" takes frames evenly spaced, "random" draws them, "pieces" cuts it into several
            clips that together hold all its frames.
        n_people: only so many people: those with the most source videos among those who have a still too, then with
            the most frames, then by name. Our rule. None takes all.
        seed: of the draws.

    Raises:
        UserError: for a number out of range or an unknown way.
    """
    if max_frames < 1:
        raise UserError(f"data.max_frames={max_frames}: must be at least 1")
    if frames not in CUTS:
        raise UserError(f"data.frames={frames}: must be one of {', '.join(CUTS)}")
    good = np.ones(len(manifest), np.bool_) if good is None else good
    people, person = manifest.names("person")
    sources, source = manifest.names("source")
    names, name = manifest.names("clip")
    is_still = manifest.is_still()
    if n_people is not None:
        good = good & np.isin(person, _most_filmed(people, person, source, is_still, good, n_people))
    rows = np.flatnonzero(good & ~is_still)
    group = (person[rows] * len(sources) + source[rows]) * len(names) + name[rows]
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    by_group = (
        np.split(rows[np.argsort(member, kind="stable")], np.cumsum(np.bincount(member))[:-1]) if len(rows) else []
    )
    clips = []
    for g in np.argsort(first):
        own = by_group[g]
        whose, where, called = people[person[own[0]]], sources[source[own[0]]], names[name[own[0]]]
        for key, piece in _cut(own, called, max_frames, frames, f"{seed}/{whose}/{where}/{called}"):
            clips.append((whose, where, key, piece))
    return Selection(clips, np.flatnonzero(good & is_still))


def _cut(
    rows: NDArray[np.int64], name: str, max_frames: int, frames: str, seed: str
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    n = len(rows)
    if n <= max_frames:
        yield name, rows
    elif frames == "even":
        yield name, rows[evenly_spaced(range(n), max_frames)]
    elif frames == "random":
        # Each clip has a draw of its own, whatever else the data set holds.
        random = np.random.default_rng(zlib.crc32(seed.encode()))
        yield name, rows[np.sort(random.permutation(n)[:max_frames])]
    else:
        for i, piece in enumerate(np.array_split(rows, -(-n // max_frames))):
            yield f"{name}#{i}", piece


def _most_filmed(
    people: list[str],
    person: NDArray[np.int64],
    source: NDArray[np.int64],
    is_still: NDArray[np.bool_],
    good: NDArray[np.bool_],
    n_people: int,
) -> list[int]:
    if n_people < 1:
        raise UserError(f"data.n_people={n_people}: must be at least 1")
    filmed = good & ~is_still
    frames = np.bincount(person[filmed], minlength=len(people))
    pairs = np.unique(np.stack([person[filmed], source[filmed]]), axis=1)
    videos = np.bincount(pairs[0], minlength=len(people))
    have_still = np.bincount(person[good & is_still], minlength=len(people)) > 0
    if not have_still.any():  # frames will stand in
        have_still[:] = True
    eligible = [p for p in range(len(people)) if videos[p] and have_still[p]]
    if len(eligible) < n_people:
        raise UserError(f"data.n_people={n_people}: only {len(eligible)} people have both a clip and a still")
    return sorted(eligible, key=lambda p: (-videos[p], -frames[p], people[p]))[:n_people]


def make_face_set(
    manifest: Manifest,
    crops: Tensor | CropStore,
    outcomes: NDArray[np.uint8],
    selection: Selection,
    skipped: Skipped,
    *,
    grey: bool = False,
    note: str = "",
) -> FaceSet:
    """Number the people and name the items of a selection.

    Args:
        manifest: all rows.
        crops: (N, 3, S, S), one a row.
        outcomes: (N,) of `Outcome`; rows of the selection that have no crop are left out.
        selection: what is used.
        skipped: what the reader left out.
        grey: hand out the luma.
        note: kept with the data set, for reports.

    Raises:
        UserError: if nothing is left.
    """
    used = outcomes <= Outcome.WHOLE
    clips = [(person, source, name, rows[used[rows]]) for person, source, name, rows in selection.clips]
    clips = [clip for clip in clips if len(clip[3])]
    stills = selection.stills[used[selection.stills]]
    if not clips and not len(stills):
        reasons = "; ".join(skipped.lines()) or "there are no pictures in it"
        raise UserError(f"the data set is empty: {reasons}")
    names, person = manifest.names("person")
    people = sorted({clip[0] for clip in clips} | {names[p] for p in np.unique(person[stills])})
    number = {name: i for i, name in enumerate(people)}
    rows_of_stills = manifest.take(stills)
    found = Counter(outcomes[selection.rows].tolist())
    return FaceSet(
        people,
        crops,
        manifest,
        # A source is a person's own: two people may both have a video called 1.
        [
            Clip(number[who], f"{who}/{source}", f"{who}/{name}", tuple(rows.tolist()))
            for who, source, name, rows in clips
        ],
        [
            Still(number[row.person], f"{row.person}/{row.source}", row.key, int(i))
            for i, row in zip(stills, rows_of_stills, strict=True)
        ],
        skipped,
        note,
        grey,
        {Outcome(o).label: found[o] for o in sorted(found) if not Outcome(o).is_fault},
    )


def evenly_spaced(items: Sequence[int], count: int) -> list[int]:
    """At most `count` items, the first and the last among them if count > 1."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
