"""Pooling that gives frames less weight the closer they are to the center of unrecognizable faces."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional.log_covariance import unit
from facereel.models.pooling.first_order import _FirstOrderPooling

# Smallest 1 - cos, about the rounding error of float32: frames at the center itself have equal weights.
_SMALLEST = 1e-6


def recognizability(features: Tensor, center: Tensor) -> Tensor:
    """Score how far features are from the center of unrecognizable faces: (1 - cos(feature, center)) / 2.

    Networks map blurred, tiny and dark faces of different people to similar features (Deng et al., "Harnessing
    Unrecognizable Faces for Improving Face Recognition", WACV 2023), so the distance from their mean tells how much a
    feature says about a person. The scores of two networks are not on one scale.

    Args:
        features: (..., D) floating point, of any length.
        center: (D,), the center; zeros give 0.5 to every feature.

    Returns:
        (...,) in 0..1: 0 at the center, 0.5 orthogonal to it, 1 opposite to it.
    """
    cosines = unit(features) @ normalize(center.to(features.dtype), dim=0)
    return ((1 - cosines) / 2).clamp(0, 1)


class RecognizabilityPooling(_FirstOrderPooling):
    """A weighted mean over real frames; the weights are powers of `recognizability`.

    Three poor frames among five then cost little, and no frame is dropped by a threshold. `set_center` sets the center,
    which is saved with the weights. Until then it is zero, and the pooling is the mean. If all frames are at the
    center, the pooling is also the mean. Nothing is learned.

    Args:
        dim: length of a frame's feature.
        p: exponent, at least 1.
        photo_limit: recognizability below which a photo does not show who it is, in 0..1; None if it is not known. See
            `is_too_poor`.
        unit_frames: scale each frame to length 1 first. The weights do not depend on the lengths of frames.
        length: scale the result to this length, > 0; None does not scale.

    Raises:
        UserError: if p < 1, photo_limit is not in 0..1, or length is not > 0.
    """

    def __init__(
        self,
        dim: int,
        p: float = 3.0,
        photo_limit: float | None = None,
        unit_frames: bool = True,
        length: float | None = None,
    ) -> None:
        super().__init__(dim, unit_frames, length)
        if not p >= 1:
            raise UserError(f"p={p}: must be at least 1")
        if photo_limit is not None and not 0 <= photo_limit <= 1:
            raise UserError(f"photo_limit={photo_limit}: must be in 0..1, or null")
        self.p = p
        self.photo_limit = photo_limit
        self.center: Tensor
        self.register_buffer("center", torch.zeros(dim))

    @torch.no_grad()
    def set_center(self, features: Tensor) -> None:
        """Set the center to the direction of the mean of features, each scaled to length 1.

        Args:
            features: (N, D) features of unrecognizable faces; see `center_on_unrecognizable`.

        Raises:
            ValueError: if the shape is wrong, or the mean is zero or not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.out_dim:
            raise ValueError(f"features must be (N, {self.out_dim}), not {tuple(features.shape)}")
        mean = unit(features.to(self.center)).mean(dim=0)
        if not mean.norm() > _SMALLEST:
            raise ValueError("the mean of the features of unrecognizable faces is zero or not finite")
        self.center.copy_(unit(mean))

    def recognizability(self, features: Tensor) -> Tensor:
        """Score features by their distance from the center.

        Args:
            features: (..., D) features of frames, crops or photos.

        Returns:
            (...,) in 0..1; see the function `recognizability`.
        """
        return recognizability(features, self.center)

    def is_too_poor(self, features: Tensor) -> Tensor:
        """Tell which photos are too poor to search with: those whose recognizability is below `photo_limit`.

        Args:
            features: (..., D) features of photos.

        Returns:
            (...,) bool; all False if `photo_limit` is None.
        """
        return self.recognizability(features) < (0.0 if self.photo_limit is None else self.photo_limit)

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        if frames.shape[1] == 0:
            return frames.sum(dim=1)
        scores = self.recognizability(frames).clamp_min(_SMALLEST / 2).masked_fill(~mask, 0.0)
        # Relative to the largest, so that no power underflows; the factor cancels.
        largest = scores.detach().amax(dim=1, keepdim=True)
        weights = (scores / largest.masked_fill(largest == 0, 1.0)) ** self.p
        total = weights.sum(dim=1, keepdim=True)
        weights = weights / total.masked_fill(total == 0, 1.0)
        return (weights[..., None] * frames).sum(dim=1)
