"""Set poolings: the frame features of a clip become one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from facereel.functional import log_covariance


class LogCovariancePooling(nn.Module):
    """The flattened matrix logarithm of a clip's covariance: see `facereel.functional.log_covariance`.

    Args:
        eps: added to the diagonal before the logarithm; 0.001 in the released code.
        center: subtract the clip's mean. The released code does not.
        normalize: divide by the number of frames. The released code does not.
        method: how it is computed; "auto" is the fast and exact one.
        nonfinite: only for method "supplement".
        subtract_floor: subtract log(eps) I, which every clip shares. The bias of the hash layer absorbs the difference,
            but the vectors become several times shorter, and learning rates with them. Ours.
    """

    def __init__(
        self,
        eps: float = 1e-3,
        center: bool = False,
        normalize: bool = False,
        method: str = "auto",
        nonfinite: str = "keep",
        subtract_floor: bool = False,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.center = center
        self.normalize = normalize
        self.method = method
        self.nonfinite = nonfinite
        self.subtract_floor = subtract_floor

    def out_dim(self, dim: int) -> int:
        """Length of the pooled vector for frame features of length dim."""
        return dim * dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) bool with True for a real frame -> (B, D * D)."""
        pooled = log_covariance(
            frames,
            mask,
            eps=self.eps,
            center=self.center,
            normalize=self.normalize,
            method=self.method,
            nonfinite=self.nonfinite,
        )
        if self.subtract_floor:
            pooled = pooled - math.log(self.eps) * torch.eye(pooled.shape[-1], device=pooled.device)
        return pooled.flatten(1)


class MeanPooling(nn.Module):
    """The mean over real frames."""

    def out_dim(self, dim: int) -> int:
        """Length of the pooled vector for frame features of length dim."""
        return dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D); zeros for a clip without a real frame."""
        if mask is None:
            return frames.mean(dim=1)
        total = frames.masked_fill(~mask[..., None], 0.0).sum(dim=1)
        return total / mask.sum(dim=1, keepdim=True).clamp_min(1)


class MaxPooling(nn.Module):
    """The largest value of each feature over real frames."""

    def out_dim(self, dim: int) -> int:
        """Length of the pooled vector for frame features of length dim."""
        return dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D); zeros for a clip without a real frame."""
        if mask is None:
            return frames.amax(dim=1)
        highest = frames.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
