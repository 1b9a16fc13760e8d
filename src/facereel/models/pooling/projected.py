"""Pooling of frames that are first projected on a few directions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.functional import linear_discriminants
from facereel.functional.log_covariance import checked_frames, unit


class ProjectedPooling(nn.Module):
    """Scale each frame to length 1, project it linearly, then pool.

    A covariance has D (D + 1) / 2 entries, too many for a hash layer that is trained on a few hundred people to
    generalize to others. The covariance of the leading linear discriminants has far fewer. Our addition.

    `fit` sets the projection before training; training then refines it at the encoder's learning rate.

    Args:
        dim: D, length of a frame's feature.
        pooling: callable that builds the pooling from `dim`.
        rank: R, number of directions; None keeps D and only whitens frames within people.
        shrinkage: shrinkage of the covariance within people, >= 0; see `linear_discriminants`.

    Raises:
        UserError: if rank is not in 1..dim or shrinkage < 0.
    """

    def __init__(
        self, dim: int, pooling: Callable[..., nn.Module], rank: int | None = None, shrinkage: float = 2.0
    ) -> None:
        super().__init__()
        rank = dim if rank is None else rank
        if not 1 <= rank <= dim:
            raise UserError(f"rank={rank}: must be 1 to {dim}, the length of a feature")
        if not shrinkage >= 0:
            raise UserError(f"shrinkage={shrinkage}: must be at least 0")
        self.shrinkage = shrinkage
        self.projection = nn.Linear(dim, rank)
        self.pooling = pooling(dim=rank)
        self.out_dim = self.pooling.out_dim

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) bool with True for a real frame -> (B, out_dim)."""
        pooled: Tensor = self.pooling(self.projection(unit(checked_frames(frames, mask))), mask)
        return pooled

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Set the projection to the leading linear discriminants of single images, after subtracting their mean.

        Args:
            features: (N, D) features of training images of at least two people, one of them with two images.
            labels: (N,) integer, the person of each image.
        """
        x = unit(features)
        directions = linear_discriminants(x, labels, self.projection.out_features, shrinkage=self.shrinkage)
        self.projection.weight.copy_(directions.T)
        self.projection.bias.copy_(-x.mean(dim=0) @ directions)
