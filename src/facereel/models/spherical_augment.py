"""Feature augmentation by moving stills and clips from one person to another (SFT)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import spherical_transform, translation_transform

TRANSFORMS = ("rotation", "translation")


class LabelledFeatures(NamedTuple):
    """Features of one batch."""

    stills: Tensor
    """(M, D)."""
    still_labels: Tensor
    """(M,) integer."""
    frames: Tensor
    """(N, T, D) of clips."""
    mask: Tensor
    """(N, T) bool."""
    clip_labels: Tensor
    """(N,) integer."""


class SphericalAugment(nn.Module):
    """Add to a batch a moved copy of each still and clip, labelled as the person it was moved to.

    The spherical feature transform of Zhu, Bai and Wei (ECCV 2020) rotates a feature from its class mean to another's;
    all frames of a clip are rotated alike. How the means are kept and who is moved where is not in the source we have,
    so it is our choice: a running mean of unit features for each person in a buffer, without gradient; targets drawn
    from the other people of the batch whose mean has been seen.

    Args:
        n_people: number of classes.
        dim: length of a feature.
        transform: "rotation" (SFT), or "translation", the earlier method, on unit features whose length is put back.
        momentum: share of the old mean that is kept at an update, 0..1.
        warm_up: updates to wait before features are moved.

    Raises:
        UserError: for an unknown transform or a momentum outside 0..1.
    """

    def __init__(
        self, n_people: int, dim: int, transform: str = "rotation", momentum: float = 0.9, warm_up: int = 10
    ) -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            raise UserError(f"augment.features.transform={transform}: must be one of {', '.join(TRANSFORMS)}")
        if not 0 <= momentum <= 1:
            raise UserError(f"augment.features.momentum={momentum}: must be in 0..1")
        self.transform = transform
        self.momentum = momentum
        self.warm_up = warm_up
        self.register_buffer("means", torch.zeros(n_people, dim))
        self.register_buffer("counts", torch.zeros(n_people, dtype=torch.int64))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        self.means: Tensor
        self.counts: Tensor
        self.n_updates: Tensor

    def forward(self, batch: LabelledFeatures) -> LabelledFeatures:
        """Update the means, and return the batch with the moved copies behind it."""
        self.update(batch)
        if self.n_updates <= self.warm_up:
            return batch
        still_targets = self._draw_targets(batch.still_labels, batch)
        clip_targets = self._draw_targets(batch.clip_labels, batch)
        stills = self.move(batch.stills, batch.still_labels, still_targets)
        frames = self.move(batch.frames, batch.clip_labels[:, None], clip_targets[:, None])
        frames = frames.masked_fill(~batch.mask[..., None], 0.0)
        moved_stills, moved_clips = still_targets != batch.still_labels, clip_targets != batch.clip_labels
        return LabelledFeatures(
            torch.cat([batch.stills, stills[moved_stills]]),
            torch.cat([batch.still_labels, still_targets[moved_stills]]),
            torch.cat([batch.frames, frames[moved_clips]]),
            torch.cat([batch.mask, batch.mask[moved_clips]]),
            torch.cat([batch.clip_labels, clip_targets[moved_clips]]),
        )

    @torch.no_grad()
    def update(self, batch: LabelledFeatures) -> None:
        """Move each present person's mean towards the mean unit feature of the batch."""
        frame_labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
        labels = torch.cat([batch.still_labels, frame_labels])
        units = normalize(torch.cat([batch.stills, batch.frames[batch.mask]]).float(), dim=1)
        sums = torch.zeros_like(self.means).index_add_(0, labels, units)
        counts = torch.bincount(labels, minlength=len(self.counts))
        present = counts > 0
        fresh = sums[present] / counts[present, None]
        kept = torch.where(self.counts[present] > 0, self.momentum, 0.0)[:, None]
        self.means[present] = kept * self.means[present] + (1 - kept) * fresh
        self.counts += counts
        self.n_updates += 1

    def move(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Move features (..., D) from the mean of one person to another's; labels (...) broadcast."""
        if self.transform == "rotation":
            return spherical_transform(x, self.means[source], self.means[target])
        length = x.norm(dim=-1, keepdim=True)
        return length * translation_transform(normalize(x, dim=-1), self.means[source], self.means[target])

    def _draw_targets(self, labels: Tensor, batch: LabelledFeatures) -> Tensor:
        """For each label another person of the batch; the label itself where there is no other."""
        present = torch.unique(torch.cat([batch.still_labels, batch.clip_labels]))
        chances = (present[None, :] != labels[:, None]).float()
        if len(labels) == 0 or len(present) < 2:
            return labels
        return present[torch.multinomial(chances, 1).squeeze(1)]
