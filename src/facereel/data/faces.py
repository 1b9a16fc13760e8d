"""People, clips and stills with their crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from facereel.data.manifest import SCHEMA, Manifest, Row
from facereel.data.store import CropStore
from facereel.names import look_alike_line
from facereel.skipped import Skipped

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
    """(N, 3, S, S) uint8; or (N, D) features, see `with_features`."""
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
    settings: Mapping[str, object] = field(default_factory=dict)
    """Size, margin and detector that the crops were cut with."""
    share: float = 1.0
    """The share of a crop's side that is handed out: the crops may be wider than a model wants them."""
    shift: float = 0.0
    """How far below the crop's middle that part lies, in its own sides."""
    whole: Tensor | None = None
    """(N,) bool, pictures that were taken whole, of which all is handed out; None if none was."""

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Manifest):
            object.__setattr__(self, "rows", Manifest.from_rows(self.rows))

    def pictures(self, rows: Sequence[int]) -> Tensor:
        """(n, 3, S, S) uint8, RGB; three equal channels if grey, S less than the crops' if only a share is wanted."""
        pictures = self.crops[torch.tensor(rows, dtype=torch.int64)]
        if self.share < 1:
            pictures = self._window(pictures, rows)
        if not self.grey:
            return pictures
        luma = (pictures.to(torch.int32) * _LUMA).sum(dim=1, keepdim=True)
        return ((luma + 2**13) >> 14).to(torch.uint8).expand(-1, 3, -1, -1)

    def _window(self, crops: Tensor, rows: Sequence[int]) -> Tensor:
        """The part of crops that is wanted; pictures that were taken whole are made as small instead."""
        part = window(crops, self.share, self.shift)
        if self.whole is not None and (whole := self.whole[torch.tensor(rows, dtype=torch.int64)]).any():
            part = part.clone()
            part[whole] = interpolate(crops[whole], part.shape[-2:], mode="bilinear", antialias=True)
        return part

    def with_features(self, features: Tensor) -> FaceSet:
        """The same with features (N, D) in place of pictures."""
        return replace(self, crops=features, grey=False, share=1.0)

    def frames_as_stills(self, clip: Clip, rows: Sequence[int] | None = None) -> list[Still]:
        """Use frames of a clip, or some of its rows, as stills of the same source."""
        rows = clip.rows if rows is None else rows
        return [
            Still(clip.person, clip.source, key, row) for key, row in zip(self.column("key", rows), rows, strict=True)
        ]

    def used_rows(self) -> Manifest:
        """The rows of clips and stills, without what `prepare` adds to them."""
        assert isinstance(self.rows, Manifest)
        used = [row for clip in self.clips for row in clip.rows] + [still.row for still in self.stills]
        table = self.rows.table.select(SCHEMA.names).replace_schema_metadata(None)
        return Manifest(table).take(np.unique(np.array(used, np.int64)))

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
        """What a reader of the counts must know: how faces were found, what was left out, and names that look alike."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        alike = look_alike_line(self.people)
        return [
            *([f"crops: {settings}"] if settings else []),
            *(f"{count} x {outcome}" for outcome, count in self.outcomes.items()),
            *self.skipped.lines(),
            *([alike] if alike else []),
        ]


def window(crops: Tensor, share: float, shift: float) -> Tensor:
    """The part of crops that a model is made for.

    Args:
        crops: (B, C, S, S).
        share: the part's side over S, at most 1.
        shift: how far below the middle it lies, in its own sides.

    Returns:
        (B, C, s, s), a view.
    """
    size = crops.shape[-1]
    side = round(size * share)
    left, top = (size - side) // 2, round((size - side) / 2 + shift * side)
    return crops[:, :, top : top + side, left : left + side]
