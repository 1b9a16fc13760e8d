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
    # Not a matrix product, which autocast would compute in half precision.
    cosines = (unit(features) * normalize(center.to(features.dtype), dim=0)).sum(dim=-1)
    return ((1 - cosines) / 2).clamp(0, 1)


class RecognizabilityPooling(_FirstOrderPooling):
    """A weighted mean over real frames, with weights recognizability^p times length^length_p.

    Three poor frames among five then cost little, and no frame is dropped by a threshold. The first factor is the power
    of `recognizability`. `set_center` sets its center, which is saved with the weights. Until then it is zero, and the
    factor is the same for all frames, as it is if all frames are at the center. The second factor is a power of the
    length of a frame's feature. Some networks make the features of poor faces shorter (Meng et al., "MagFace", CVPR
    2021): SFace does, dlib's does not. The weights do not change if all features are scaled. Nothing is learned. The
    combination is our choice.

    Args:
        dim: length of a frame's feature.
        p: exponent of the recognizability, at least 1.
        length_p: exponent of the length of a feature, >= 0; 0 ignores lengths.
        photo_limit: recognizability below which a photo is too poor to identify a person, in 0..1; None if
            it is not known. See `is_too_poor`.
        unit_frames: scale each frame to length 1 before the mean. The weights use the lengths from before.
        length: scale the result to this length, > 0; None does not scale.

    Raises:
        UserError: if p < 1, length_p < 0, photo_limit is not in 0..1, or length is not > 0.
    """

    # The weights depend on the lengths of frames.
    scales_first = False

    def __init__(
        self,
        dim: int,
        p: float = 3.0,
        length_p: float = 3.0,
        photo_limit: float | None = None,
        unit_frames: bool = True,
        length: float | None = None,
    ) -> None:
        super().__init__(dim, unit_frames, length)
        if not (p >= 1 and length_p >= 0):
            raise UserError(f"p={p}, length_p={length_p}: p must be at least 1, length_p at least 0")
        if photo_limit is not None and not 0 <= photo_limit <= 1:
            raise UserError(f"photo_limit={photo_limit}: must be in 0..1, or null")
        self.p = p
        self.length_p = length_p
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

    def weights(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Compute the weight of each frame.

        Args:
            frames: (B, T, D) floating point.
            mask: (B, T) bool, True for a real frame.

        Returns:
            (B, T) in 0..1; the sum over the real frames of a clip is 1, other weights are 0.
        """
        weights = _relative_power(self.recognizability(frames).clamp_min(_SMALLEST / 2), mask, self.p)
        if self.length_p:
            weights = weights * _relative_power(_lengths(frames), mask, self.length_p)
        total = weights.sum(dim=1, keepdim=True)
        # Frames of length 0 only: they are all alike.
        weights = torch.where(total == 0, mask.to(frames.dtype), weights)
        total = weights.sum(dim=1, keepdim=True)
        return weights / total.masked_fill(total == 0, 1.0)

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, D)."""
        if frames.shape[1] == 0:
            return frames.sum(dim=1)
        weights = self.weights(frames, mask)
        return (weights[..., None] * (unit(frames) if self.unit_frames else frames)).sum(dim=1)


def _lengths(frames: Tensor) -> Tensor:
    """Return the length of each frame, with a gradient of zero at zero."""
    squares = frames.square().sum(dim=2)
    is_zero = squares == 0
    return squares.masked_fill(is_zero, 1.0).sqrt().masked_fill(is_zero, 0.0)


def _relative_power(values: Tensor, mask: Tensor, power: float) -> Tensor:
    """Return the power of values (B, T), divided by its largest of each clip so that none underflows; 0 for padding."""
    values = values.masked_fill(~mask, 0.0)
    largest = values.detach().amax(dim=1, keepdim=True)
    return (values / largest.masked_fill(largest == 0, 1.0)) ** power
