"""Feature augmentation by moving stills and clips from one person to another (SFT)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import spherical_transform, translation_transform

OPTIONS = {
    "transform": ("rotation", "translation"),
    "means": ("running", "proxies"),
    "targets": ("batch", "seen"),
    "clips": ("frames", "pooled"),
}


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


class WholeBatch(NamedTuple):
    """What the draws and the class means are made from: a batch of which other processes may hold parts.

    All hold the same of this, and the same class means, so that each draws what one process with the whole would draw.
    """

    features: Tensor
    """(S, D) of stills and real frames, gathered with gradient."""
    feature_labels: Tensor
    """(S,) integer."""
    still_labels: Tensor
    """(M,) integer."""
    clip_labels: Tensor
    """(N,) integer."""
    own_stills: Tensor
    """(M,) bool, the stills that this process holds."""
    own_clips: Tensor
    """(N,) bool, its clips."""


class AugmentedFeatures(NamedTuple):
    """The features of a batch, and behind them the moved copies."""

    stills: Tensor
    """(M + M', D)."""
    still_labels: Tensor
    """(M + M',) integer; of a copy the person it was moved to."""
    pooled: Tensor
    """(N + N', P) of clips, P the length of a pooled clip."""
    clip_labels: Tensor
    """(N + N',) integer."""


class SphericalAugment(nn.Module):
    """Add to a batch moved copies of its stills and clips, labelled as the person they were moved to.

    The spherical feature transform of Zhu, Bai and Wei (ECCV 2020) rotates a feature from its class mean to another's;
    all frames of a clip are rotated alike. How the means are kept, who is moved where, how many and from when on is not
    in the source we have: these are options, and the defaults are our choice.

    Args:
        n_people: number of classes.
        dim: length of a feature.
        transform: "rotation" (SFT), or "translation", the earlier method, on unit features whose length is put back.
        means: "running", a running average of unit features for each person, which the rotation projects on the sphere;
            or "proxies", the vectors that the loss learns for each person, where it does.
        targets: draw the person to move to from those of the "batch", or from all "seen". Never one of whom no feature
            was seen yet.
        clips: move "frames" and then pool, or rotate the "pooled" clip: the same for a pooling that commutes with
            rotations, at a fraction of the time.
        share: chance that a still or a clip is copied and moved, 0..1.
        momentum: share of the old running average that is kept at an update, 0..1.
        warm_up: updates to wait before features are moved.
        ramp_up: updates over which the share then grows from 0.
        mean_gradient: let gradients flow through the means too.

    Raises:
        UserError: for an unknown choice or a number out of range.
    """

    def __init__(
        self,
        n_people: int,
        dim: int,
        transform: str = "rotation",
        means: str = "running",
        targets: str = "batch",
        clips: str = "frames",
        share: float = 1.0,
        momentum: float = 0.9,
        warm_up: int = 10,
        ramp_up: int = 0,
        mean_gradient: bool = False,
    ) -> None:
        super().__init__()
        choices = {"transform": transform, "means": means, "targets": targets, "clips": clips}
        for name, choice in choices.items():
            if choice not in OPTIONS[name]:
                raise UserError(f"augment.features.{name}={choice}: must be one of {', '.join(OPTIONS[name])}")
        for name, number in (("share", share), ("momentum", momentum)):
            if not 0 <= number <= 1:
                raise UserError(f"augment.features.{name}={number}: must be in 0..1")
        for name, count in (("warm_up", warm_up), ("ramp_up", ramp_up)):
            if count < 0:
                raise UserError(f"augment.features.{name}={count}: must be at least 0")
        if clips == "pooled" and transform != "rotation":
            raise UserError("augment.features.clips=pooled: only a rotation can move a pooled clip")
        self.transform = transform
        self.mean_source = means
        self.targets = targets
        self.clips = clips
        self.share = share
        self.momentum = momentum
        self.warm_up = warm_up
        self.ramp_up = ramp_up
        self.mean_gradient = mean_gradient
        self.register_buffer("means", torch.zeros(n_people, dim))
        self.register_buffer("counts", torch.zeros(n_people, dtype=torch.int64))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        self.means: Tensor
        self.counts: Tensor
        self.n_updates: Tensor

    def check(self, pooling: nn.Module, proxies: Tensor | None) -> None:
        """Raise a UserError if these options do not go with the model's pooling or the loss."""
        if self.clips == "pooled" and not hasattr(pooling, "rotate"):
            name = type(pooling).__name__
            raise UserError(f"augment.features.clips=pooled: {name} does not commute with rotations; use clips=frames")
        if self.mean_source == "proxies" and (proxies is None or proxies.shape != self.means.shape):
            raise UserError("augment.features.means=proxies: this stage's loss learns no vector in feature space")

    def forward(
        self,
        batch: LabelledFeatures,
        pooling: nn.Module,
        proxies: Tensor | None = None,
        whole: WholeBatch | None = None,
        draws: torch.Generator | None = None,
    ) -> AugmentedFeatures:
        """Update the means, pool the clips, and return both kinds with the moved copies behind them.

        Args:
            batch: the features that this process holds.
            pooling: the model's.
            proxies: the vectors of the loss, if means are those.
            whole: the batch of all processes, if there are others.
            draws: what is drawn from, on the features' device; None takes the global generator.
        """
        batch = batch._replace(frames=batch.frames.masked_fill(~batch.mask[..., None], 0.0))
        whole = whole or _whole(batch)
        means = self.update(whole.features, whole.feature_labels)
        if self.mean_source == "proxies":
            self.check(pooling, proxies)
            assert proxies is not None
            means = proxies if self.mean_gradient else proxies.detach()
        still_rows, still_targets = self._draw(whole.still_labels, whole.own_stills, whole, draws)
        clip_rows, clip_targets = self._draw(whole.clip_labels, whole.own_clips, whole, draws)
        sources = means[batch.still_labels[still_rows]]
        stills = self._move(batch.stills[still_rows], sources, means[still_targets])
        sources, destinations = means[batch.clip_labels[clip_rows]], means[clip_targets]
        if self.clips == "pooled":
            pooled = pooling(batch.frames, batch.mask)
            rotate: Any = pooling.rotate
            pooled = torch.cat([pooled, rotate(pooled[clip_rows], sources, destinations)])
        else:
            frames = self._move(batch.frames[clip_rows], sources[:, None], destinations[:, None])
            pooled = pooling(torch.cat([batch.frames, frames]), torch.cat([batch.mask, batch.mask[clip_rows]]))
        return AugmentedFeatures(
            torch.cat([batch.stills, stills]),
            torch.cat([batch.still_labels, still_targets]),
            pooled,
            torch.cat([batch.clip_labels, clip_targets]),
        )

    def update(self, features: Tensor, labels: Tensor) -> Tensor:
        """Move each present person's running average towards that of the batch's unit features.

        Args:
            features: (S, D) of stills and real frames.
            labels: (S,) integer.

        Returns:
            (n_people, D) the new averages, with a gradient to the features if `mean_gradient`.
        """
        units = normalize(features.to(self.means.dtype), dim=1)
        units = units if self.mean_gradient else units.detach()
        finite = units.isfinite().all(dim=1)  # an average would keep a NaN for ever
        labels, units = labels[finite], units[finite]
        new = torch.bincount(labels, minlength=len(self.counts))
        fresh = torch.zeros_like(self.means).index_add(0, labels, units) / new.clamp_min(1)[:, None]
        # Of a person seen for the first time all, of one who is absent nothing.
        weight = torch.where(self.counts > 0, 1 - self.momentum, 1.0).to(fresh.dtype) * (new > 0)
        means = self.means.lerp(fresh, weight[:, None])
        self.means = means.detach()
        self.counts = self.counts + new
        self.n_updates += 1
        return means

    @property
    def chance(self) -> float:
        """Chance that a feature is moved after as many updates as there were."""
        since = int(self.n_updates) - self.warm_up
        return self.share * min(1.0, max(0, since) / max(1, self.ramp_up))

    def _move(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Move features (..., D) from means (..., D) to others."""
        if self.transform == "rotation":
            return spherical_transform(x, source, target)
        length = x.norm(dim=-1, keepdim=True)
        return length * translation_transform(normalize(x, dim=-1), source, target)

    def _draw(
        self, labels: Tensor, own: Tensor, whole: WholeBatch, draws: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Choose whom to move and for each another person: (N,) labels -> (N',) rows of one's own, (N',) labels."""
        allowed = self.counts > 0
        if self.targets == "batch":
            present = torch.zeros_like(allowed)
            present[torch.cat([whole.still_labels, whole.clip_labels])] = True
            allowed = allowed & present
        chances = allowed.float().repeat(len(labels), 1)
        chances.scatter_(1, labels[:, None], 0.0)
        drawn = torch.rand(labels.shape, device=labels.device, generator=draws)
        moved = (drawn < self.chance) & (chances.sum(dim=1) > 0)
        rows = moved.nonzero().squeeze(1)
        targets = torch.multinomial(chances[rows], 1, generator=draws).squeeze(1) if len(rows) else labels[:0]
        places = own.cumsum(dim=0) - 1
        return places[rows][own[rows]], targets[own[rows]]


def _whole(batch: LabelledFeatures) -> WholeBatch:
    """The batch of a process that has all of it."""
    frame_labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
    return WholeBatch(
        torch.cat([batch.stills, batch.frames[batch.mask]]),
        torch.cat([batch.still_labels, frame_labels]),
        batch.still_labels,
        batch.clip_labels,
        torch.ones_like(batch.still_labels, dtype=torch.bool),
        torch.ones_like(batch.clip_labels, dtype=torch.bool),
    )
