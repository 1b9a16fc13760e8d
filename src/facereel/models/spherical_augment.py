"""The spherical feature transform (SFT): feature augmentation that moves stills and clips to another person."""

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


class LabeledFeatures(NamedTuple):
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
    """The batch of all processes, for the class means and the random draws.

    It is equal in all processes, as are the class means, so each process draws what a single one would.
    """

    features: Tensor
    """(S, D) of stills and real frames, gathered with their gradients."""
    feature_labels: Tensor
    """(S,) integer."""
    still_labels: Tensor
    """(M,) integer."""
    clip_labels: Tensor
    """(N,) integer."""
    is_local_still: Tensor
    """(M,) bool, True for the stills of this process."""
    is_local_clip: Tensor
    """(N,) bool, True for the clips of this process."""


class AugmentedFeatures(NamedTuple):
    """The features of a batch, followed by the moved copies."""

    stills: Tensor
    """(M + M', D)."""
    still_labels: Tensor
    """(M + M',) integer; the label of a copy is the person it was moved to."""
    pooled: Tensor
    """(N + N', P) of clips; P is the length of a pooled clip."""
    clip_labels: Tensor
    """(N + N',) integer."""


class SphericalAugment(nn.Module):
    """Add moved copies of stills and clips to a batch, labeled as the person they were moved to.

    The spherical feature transform of Zhu, Bai and Wei (ECCV 2020) rotates a feature from its class mean to another;
    all frames of a clip get the same rotation. The paper does not specify the following options; the defaults are our
    choice.

    Args:
        n_people: number of classes.
        dim: length of a feature.
        transform: "rotation" (SFT); or "translation", the earlier method, applied to unit features; their
            original length is then restored.
        means: "running", a running average of unit features for each person, which the rotation projects on the sphere;
            or "proxies", the vectors that the loss learns for each person.
        targets: draw the new person from the people in the "batch", or from all people "seen" so far.
        clips: move "frames" and then pool, or rotate the "pooled" clip. Both are equal for a pooling that commutes with
            rotations; the second is much faster.
        probability: probability that a still or a clip is copied and moved, 0..1.
        momentum: weight of the old running average at an update, 0..1.
        warm_up: number of updates before features are moved.
        ramp_up: number of updates over which the probability then grows from 0.
        mean_gradient: let gradients flow through the means.

    Raises:
        UserError: if an option is unknown or a number is out of range.
    """

    def __init__(  # noqa: PLR0913 (each is a key of the configuration)
        self,
        n_people: int,
        dim: int,
        transform: str = "rotation",
        means: str = "running",
        targets: str = "batch",
        clips: str = "frames",
        probability: float = 1.0,
        momentum: float = 0.9,
        warm_up: int = 10,
        ramp_up: int = 0,
        mean_gradient: bool = False,
    ) -> None:
        super().__init__()
        choices = {"transform": transform, "means": means, "targets": targets, "clips": clips}
        for name, choice in choices.items():
            if choice not in OPTIONS[name]:
                raise UserError(f"{name}={choice}: must be one of {', '.join(OPTIONS[name])}")
        for name, number in (("probability", probability), ("momentum", momentum)):
            if not 0 <= number <= 1:
                raise UserError(f"{name}={number}: must be in 0..1")
        for name, count in (("warm_up", warm_up), ("ramp_up", ramp_up)):
            if count < 0:
                raise UserError(f"{name}={count}: must be at least 0")
        if clips == "pooled" and transform != "rotation":
            raise UserError("clips=pooled needs transform=rotation; use it, or clips=frames")
        self.transform = transform
        self.mean_source = means
        self.targets = targets
        self.clips = clips
        self.probability = probability
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
        """Check that the options fit the pooling of the model and the loss.

        Args:
            pooling: the pooling of the model.
            proxies: the vectors that the loss learns for each person, or None.

        Raises:
            UserError: if the options do not fit.
        """
        if self.clips == "pooled" and getattr(pooling, "rotate", None) is None:
            name = type(pooling).__name__
            raise UserError(f"clips=pooled: {name} does not commute with rotations; use clips=frames")
        if self.mean_source == "proxies" and (proxies is None or proxies.shape != self.means.shape):
            raise UserError("means=proxies: the loss does not learn a feature vector per person; use means=running")

    def forward(
        self,
        batch: LabeledFeatures,
        pooling: nn.Module,
        proxies: Tensor | None = None,
        whole: WholeBatch | None = None,
        draws: torch.Generator | None = None,
    ) -> AugmentedFeatures:
        """Update the means, pool the clips, and append the moved copies.

        Args:
            batch: the features of this process.
            pooling: the pooling of the model.
            proxies: (n_people, D) vectors of the loss, for means="proxies".
            whole: the batch of all processes; None if this is the only process.
            draws: random generator on the device of the features; None uses the global one.

        Returns:
            The features, followed by the copies.

        Raises:
            UserError: if means="proxies" and the proxies do not fit.
        """
        batch = batch._replace(frames=batch.frames.masked_fill(~batch.mask[..., None], 0.0))
        whole = whole or _whole(batch)
        means = self.update(whole.features, whole.feature_labels)
        if self.mean_source == "proxies":
            self.check(pooling, proxies)
            assert proxies is not None
            means = proxies if self.mean_gradient else proxies.detach()
        still_rows, still_targets = self._draw(whole.still_labels, whole.is_local_still, whole, draws)
        clip_rows, clip_targets = self._draw(whole.clip_labels, whole.is_local_clip, whole, draws)
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
        """Move the running average of each person in the batch towards the mean of the person's unit features.

        Args:
            features: (S, D) features of stills and real frames.
            labels: (S,) integer, the person of each feature.

        Returns:
            (n_people, D) new averages, with a gradient if `mean_gradient` is set.
        """
        units = normalize(features.to(self.means.dtype), dim=1)
        units = units if self.mean_gradient else units.detach()
        finite = units.isfinite().all(dim=1)  # a running average that becomes NaN stays NaN
        labels, units = labels[finite], units[finite]
        new = torch.bincount(labels, minlength=len(self.counts))
        fresh = torch.zeros_like(self.means).index_add(0, labels, units) / new.clamp_min(1)[:, None]
        # A new person gets the mean of the batch; a person who is not in the batch keeps the old average.
        weight = torch.where(self.counts > 0, 1 - self.momentum, 1.0).to(fresh.dtype) * (new > 0)
        means = self.means.lerp(fresh, weight[:, None])
        self.means = means.detach()
        self.counts = self.counts + new
        self.n_updates += 1
        return means

    @property
    def chance(self) -> float:
        """Current probability that a feature is moved."""
        since = int(self.n_updates) - self.warm_up
        return self.probability * min(1.0, max(0, since) / max(1, self.ramp_up))

    def _move(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return features (..., D) moved from source means (..., D) to target means (..., D)."""
        if self.transform == "rotation":
            return spherical_transform(x, source, target)
        length = x.norm(dim=-1, keepdim=True)
        return length * translation_transform(normalize(x, dim=-1), source, target)

    def _draw(
        self, labels: Tensor, is_local: Tensor, whole: WholeBatch, draws: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw rows to move and new labels.

        Args:
            labels: (N,) of the whole batch.
            is_local: (N,) bool, True for the rows of this process.
            whole: the batch of all processes.
            draws: random generator, or None.

        Returns:
            (N',) indices among the local rows, and (N',) new labels.
        """
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
        local_index = is_local.cumsum(dim=0) - 1
        is_local = is_local[rows]
        return local_index[rows][is_local], targets[is_local]


def _whole(batch: LabeledFeatures) -> WholeBatch:
    """Return the whole batch if there is only one process."""
    frame_labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
    return WholeBatch(
        torch.cat([batch.stills, batch.frames[batch.mask]]),
        torch.cat([batch.still_labels, frame_labels]),
        batch.still_labels,
        batch.clip_labels,
        torch.ones_like(batch.still_labels, dtype=torch.bool),
        torch.ones_like(batch.clip_labels, dtype=torch.bool),
    )
