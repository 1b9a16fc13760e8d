"""Set poolings whose result is as long as a frame's feature. Those by a covariance are in `covariance_pooling`.

A pooling is built with `dim`, the length of a frame's feature; `out_dim` is that of its result. It is called with
frames (B, T, dim), of which half precision is computed in float32, and mask (B, T) bool, True for a real frame, or None
if all are; what a padded frame holds is ignored. A clip without a real frame gives zeros and a zero gradient; NaN in a
real frame gives NaN. `rotate`, where there is one, moves a pooled clip as if all its frames had been rotated before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.functional import spherical_transform
from facereel.functional.log_covariance import checked_frames


class MeanPooling(nn.Module):
    """The mean over real frames.

    Args:
        dim: length of a frame's feature.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        frames, mask = _cleared(frames, mask)
        return frames.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)

    def rotate(self, pooled: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
        """(B, D) of clips, moved from one mean (B, D) to another (B, D)."""
        return spherical_transform(pooled, source_mean, target_mean)


class MaxPooling(nn.Module):
    """The largest value of each feature over real frames.

    Args:
        dim: length of a frame's feature.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        frames, mask = _cleared(frames, mask)
        if frames.shape[1] == 0:
            return frames.sum(dim=1)
        highest = frames.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class GeMPooling(nn.Module):
    """The generalised mean over real frames, (mean of x^p)^(1/p), with one learned p (Radenovic, Tolias and Chum 2019).

    Between the mean of positive values (p = 1) and their maximum. Taken through logarithms, so that no power overflows;
    p is kept as its logarithm, so that it stays positive.

    Args:
        dim: length of a frame's feature.
        p: at the start of training, > 0.
        eps: smaller and negative features count as this, > 0.

    Raises:
        UserError: if p or eps is not > 0.
    """

    def __init__(self, dim: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        if not (p > 0 and eps > 0):
            raise UserError(f"pooling.p={p}, pooling.eps={eps}: both must be > 0")
        self.out_dim = dim
        self.eps = eps
        self.log_p = nn.Parameter(torch.tensor(math.log(p)))

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        frames, mask = _cleared(frames, mask)
        p = self.log_p.exp()
        powers = (p * frames.clamp_min(self.eps).log()).masked_fill(~mask[..., None], -torch.inf)
        empty = ~mask.any(dim=1, keepdim=True)
        powers = powers.masked_fill(empty[..., None], 0.0)  # logsumexp of nothing has no gradient
        n_real = mask.sum(dim=1, keepdim=True).clamp_min(1).to(frames.dtype)
        return ((powers.logsumexp(dim=1) - n_real.log()) / p).exp().masked_fill(empty, 0.0)


class AttentionPooling(nn.Module):
    """A weighted mean over real frames, the weights a softmax over time of one learned vector times each frame.

    The first attention block of Yang et al., "Neural Aggregation Network for Video Face Recognition", CVPR 2017. The
    vector starts at zero (ours), so that training starts from the mean.

    Args:
        dim: length of a frame's feature.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        frames, mask = _cleared(frames, mask)
        logits = (frames * self.query).sum(dim=2).masked_fill(~mask, torch.finfo(frames.dtype).min)
        weights = logits.softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights[..., None] * frames).sum(dim=1)


def _cleared(frames: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Frames, float32 if they were half precision, with zeros where there is padding; and the mask."""
    frames = checked_frames(frames, mask)
    if mask is None:
        return frames, frames.new_ones(frames.shape[:2], dtype=torch.bool)
    return frames.masked_fill(~mask[..., None], 0.0), mask
