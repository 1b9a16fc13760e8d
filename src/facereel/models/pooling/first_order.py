"""First-order poolings: mean, maximum, generalized mean and attention over the frames of a clip.

A pooling is built with `dim`, the length of a frame's feature; `out_dim` is the length of its result. `unit_frames`
scales each frame to length 1 first, and `length` scales the result to that length, so that one learning rate fits every
encoder. A pooling is called with frames (B, T, dim), where half precision is computed in float32, and mask (B, T) bool,
True for a real frame, or None if all are real. The content of padded frames is ignored. A clip without a real frame
gives zeros and a zero gradient; NaN in a real frame gives NaN. `rotate`, if a pooling has it, gives the same result as
rotating all frames before pooling.
"""

import math

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.functional import spherical_transform
from facereel.functional.log_covariance import checked_frames, unit


def check_length(length: float | None) -> None:
    """Check the option `length` of a pooling.

    Args:
        length: length of the result, or None.

    Raises:
        UserError: if the length is not > 0.
    """
    if length is not None and not length > 0:
        raise UserError(f"length={length}: must be > 0, or null")


class _FirstOrderPooling(nn.Module):
    """Base class of the first-order poolings.

    Args:
        dim: length of a frame's feature.
        unit_frames: scale each frame to length 1 first.
        length: scale the result to this length, > 0; None does not scale.

    Raises:
        UserError: if length is not > 0.
    """

    # Whether `pool` gets frames of length 1 with `unit_frames`; else it gets the frames as they are, and scales them.
    scales_first = True

    def __init__(self, dim: int, unit_frames: bool = False, length: float | None = None) -> None:
        super().__init__()
        check_length(length)
        self.out_dim = dim
        self.unit_frames = unit_frames
        self.length = length

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) bool with True for a real frame -> (B, D)."""
        frames = checked_frames(frames, mask)
        if mask is None:
            mask = frames.new_ones(frames.shape[:2], dtype=torch.bool)
        else:
            frames = frames.masked_fill(~mask[..., None], 0.0)
        pooled = self.pool(unit(frames) if self.unit_frames and self.scales_first else frames, mask)
        return pooled if self.length is None else self.length * unit(pooled)

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Pool frames (B, T, D), where padding is zero, with their mask (B, T) -> (B, D)."""
        raise NotImplementedError


class MeanPooling(_FirstOrderPooling):
    """The mean over real frames."""

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        return frames.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)

    def rotate(self, pooled: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
        """Move pooled clips (B, D) from one mean (B, D) to another (B, D)."""
        return spherical_transform(pooled, source_mean, target_mean)


class MaxPooling(_FirstOrderPooling):
    """The largest value of each feature over real frames."""

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        if frames.shape[1] == 0:
            return frames.sum(dim=1)
        highest = frames.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class GeMPooling(_FirstOrderPooling):
    """The generalized mean over real frames, (mean of x^p)^(1/p), with one learned p (Radenovic, Tolias and Chum 2019).

    Its values are between the mean of positive values (p = 1) and their maximum. It is computed with logarithms, so
    that no power overflows; the parameter is log p, so that p stays positive.

    Args:
        dim: length of a frame's feature.
        p: exponent at the start of training, > 0.
        eps: lower bound of the features, > 0.
        unit_frames: scale each frame to length 1 first.
        length: scale the result to this length, > 0; None does not scale.

    Raises:
        UserError: if p, eps or length is not > 0.
    """

    def __init__(
        self, dim: int, p: float = 3.0, eps: float = 1e-6, unit_frames: bool = False, length: float | None = None
    ) -> None:
        super().__init__(dim, unit_frames, length)
        if not (p > 0 and eps > 0):
            raise UserError(f"p={p}, eps={eps}: both must be > 0")
        self.eps = eps
        self.log_p = nn.Parameter(torch.tensor(math.log(p)))

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        p = self.log_p.exp()
        powers = (p * frames.clamp_min(self.eps).log()).masked_fill(~mask[..., None], -torch.inf)
        empty = ~mask.any(dim=1, keepdim=True)
        powers = powers.masked_fill(empty[..., None], 0.0)  # the gradient of an empty logsumexp is NaN
        n_real = mask.sum(dim=1, keepdim=True).clamp_min(1).to(frames.dtype)
        return ((powers.logsumexp(dim=1) - n_real.log()) / p).exp().masked_fill(empty, 0.0)


class AttentionPooling(_FirstOrderPooling):
    """A weighted mean over real frames; the weights are a softmax of the products with a learned vector.

    The first attention block of Yang et al., "Neural Aggregation Network for Video Face Recognition", CVPR 2017. The
    vector starts at zero (our choice), so training starts from the mean.

    Args:
        dim: length of a frame's feature.
        unit_frames: scale each frame to length 1 first.
        length: scale the result to this length, > 0; None does not scale.

    Raises:
        UserError: if length is not > 0.
    """

    def __init__(self, dim: int, unit_frames: bool = False, length: float | None = None) -> None:
        super().__init__(dim, unit_frames, length)
        self.query = nn.Parameter(torch.zeros(dim))

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        logits = (frames * self.query).sum(dim=2).masked_fill(~mask, torch.finfo(frames.dtype).min)
        weights = logits.softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights[..., None] * frames).sum(dim=1)
