"""People, clips and stills with their crops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from facereel.data.crop_store import CropStore
from facereel.data.manifest import SCHEMA, Manifest, Row
from facereel.data.person_names import look_alike_line
from facereel.functional.luma import LUMA_INTEGER_WEIGHTS, LUMA_SHIFT
from facereel.system.skipped import Skipped


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
    """One face image."""

    person: int
    source: str
    key: str
    row: int

    @property
    def rows(self) -> tuple[int, ...]:
        """The row as a tuple, so that stills and clips have the same interface."""
        return (self.row,)


@dataclass(frozen=True)
class FaceSet:
    """People, and the clips and stills of a data set with their crops."""

    people: list[str]
    crops: Tensor | CropStore
    """(N, 3, S, S) uint8, or (N, D) features, see `with_features`."""
    rows: Manifest | Sequence[Row]
    """(N,) manifest row of each crop; stored as a `Manifest`."""
    clips: list[Clip]
    stills: list[Still]
    skipped: Skipped = field(default_factory=Skipped)
    note: str = ""
    """A note about this data for readers of the results."""
    grayscale: bool = False
    """Whether `images` returns luma."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Number of images per way of cropping the face."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Size, margin and detector of the crops."""
    central_fraction: float = 1.0
    """Fraction of a crop's side that `images` returns: crops may be wider than a model needs."""
    vertical_offset: float = 0.0
    """Offset of that part below the crop's center, as a fraction of the part's side."""
    whole: Tensor | None = None
    """(N,) bool, True for images that were used whole and are returned whole; None if no image was."""

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Manifest):
            object.__setattr__(self, "rows", Manifest.from_rows(self.rows))

    def __repr__(self) -> str:
        """Return the numbers of items: a notebook would print thousands of them."""
        return f"FaceSet({self.summary()})"

    def images(self, rows: Sequence[int]) -> Tensor:
        """Get the RGB images of rows.

        Args:
            rows: (n,) rows of `crops`.

        Returns:
            (n, 3, S, S) uint8; three equal channels with `grayscale`; S is smaller than the crops' side if
            `central_fraction` is below 1.
        """
        images = self.crops[torch.tensor(rows, dtype=torch.int64)]
        if self.central_fraction < 1:
            images = self._window(images, rows)
        if not self.grayscale:
            return images
        weights = torch.tensor(LUMA_INTEGER_WEIGHTS, dtype=torch.int32).view(3, 1, 1)
        luma = (images.to(torch.int32) * weights).sum(dim=1, keepdim=True)
        return ((luma + (1 << LUMA_SHIFT - 1)) >> LUMA_SHIFT).to(torch.uint8).expand(-1, 3, -1, -1)

    def _window(self, crops: Tensor, rows: Sequence[int]) -> Tensor:
        part = window(crops, self.central_fraction, self.vertical_offset)
        if self.whole is not None and (whole := self.whole[torch.tensor(rows, dtype=torch.int64)]).any():
            part = part.clone()
            part[whole] = interpolate(crops[whole], part.shape[-2:], mode="bilinear", antialias=True)
        return part

    def with_features(self, features: Tensor) -> Self:
        """Return the same data set with (N, D) features in place of images."""
        return replace(self, crops=features, grayscale=False, central_fraction=1.0)

    def frames_as_stills(self, clip: Clip, rows: Sequence[int] | None = None) -> list[Still]:
        """Convert frames of a clip to stills of the same source.

        Args:
            clip: the clip.
            rows: rows of the clip to convert; None converts all.

        Returns:
            A still for each row.
        """
        rows = clip.rows if rows is None else rows
        return [
            Still(clip.person, clip.source, key, row) for key, row in zip(self.column("key", rows), rows, strict=True)
        ]

    def used_rows(self) -> Manifest:
        """Return the manifest rows of all clips and stills, without the columns that `prepare` adds."""
        assert isinstance(self.rows, Manifest)
        used = [row for clip in self.clips for row in clip.rows] + [still.row for still in self.stills]
        table = self.rows.table.select(SCHEMA.names).replace_schema_metadata(None)
        return Manifest(table).take(np.unique(np.array(used, np.int64)))

    def column(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return the values of a manifest column at the given rows."""
        assert isinstance(self.rows, Manifest)
        values: list[Any] = self.rows.table[name].take(pa.array(rows, pa.int64())).to_pylist()
        return values

    def summary(self) -> str:
        """Return one line with the numbers of people, clips, frames and stills."""
        frames = sum(len(clip.rows) for clip in self.clips)
        return (
            f"{len(self.people)} people, {len(self.clips)} clips with {frames} frames from "
            f"{len({clip.source for clip in self.clips})} sources, {len(self.stills)} stills"
        )

    def lines(self) -> list[str]:
        """Return lines about the data set: how faces were cropped, what was skipped, and names that look alike."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        similar = look_alike_line(self.people)
        return [
            *([f"crops: {settings}"] if settings else []),
            *(f"{count} x {outcome}" for outcome, count in self.outcomes.items()),
            *self.skipped.lines(),
            *([similar] if similar else []),
        ]


def window(crops: Tensor, central_fraction: float, vertical_offset: float) -> Tensor:
    """Cut the part of crops that a model needs.

    Args:
        crops: (B, C, S, S).
        central_fraction: ratio of the part's side to S, at most 1.
        vertical_offset: offset of the part below the crop's center, as a fraction of the part's side.

    Returns:
        (B, C, s, s), a view.
    """
    size = crops.shape[-1]
    side = round(size * central_fraction)
    left, top = (size - side) // 2, round((size - side) / 2 + vertical_offset * side)
    return crops[:, :, top : top + side, left : left + side]
