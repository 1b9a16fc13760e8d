"""A hashing head that needs no labeled faces, for a pretrained encoder."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.models.heads.fitted import itq_directions
from facereel.models.heads.linear import OneHead

# Brings the arguments of the sigmoid to about 0.3, where it is almost a line. On YouTube Faces real-valued queries have
# an mAP of 0.878 at 64 bits (fitted by 50 iterations), with four times the factor 0.874.
_SPREAD = 0.5

# At 64 bits, 200 iterations of ITQ raise mAP by 0.002 over 50.
_ITERATIONS = 200

# Features that differ by less are equal but for rounding.
_DISTINCT = 1e-6


class RotationHead(OneHead):
    """Normalize, subtract a center, rotate, and take the sigmoid. Nothing is learned from labeled faces.

    At first the hyperplanes are random and orthogonal (after Charikar 2002); for K > D they are the first D columns of
    a rotation in K dimensions. `fit` adapts the center and the hyperplanes to vectors of unknown people. Our choice.

    Args:
        still_dim: not used; all heads take it.
        clip_dim: D, length of a clip's pooled vector.
        n_bits: K, the length of a code.
        seed: random seed of the rotation.

    Raises:
        UserError: if n_bits < 1.
    """

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, seed: int = 0) -> None:
        super().__init__(n_bits)
        side = max(n_bits, clip_dim)
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.empty(side, side, dtype=torch.float64)
        if not rotation.is_meta:  # on the meta device only shapes are needed
            rotation = torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q
        self.rotation: Tensor
        self.center: Tensor
        # Saved with the weights: QR may differ in the last bit on another machine.
        self.register_buffer("rotation", rotation[:n_bits, :clip_dim].float().contiguous())
        self.register_buffer("center", torch.zeros(clip_dim))

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """Compute the scores of clips.

        Args:
            pooled: (B, D) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        rotated = (normalize(pooled, dim=1) - self.center) @ self.rotation.T
        return (_SPREAD * math.sqrt(self.n_bits) * rotated).sigmoid()

    @torch.no_grad()
    def fit(self, pooled: Tensor, seed: int = 0) -> None:
        """Fit the center and the hyperplanes to the vectors of an archive, without labels.

        The center is the mean. The hyperplanes are the leading principal components, rotated towards their signs (ITQ:
        Gong and Lazebnik, CVPR 2011). For K > D there are several such rotations, each from another random start: our
        addition.

        Args:
            pooled: (N, D) pooled clips.
            seed: random seed of the rotations.

        Raises:
            UserError: if the vectors are not finite or all equal.
        """
        x = normalize(pooled.cpu().double(), dim=1)
        if not (len(x) > 1 and (x - x[:1]).abs().max() > _DISTINCT):  # also if one is NaN
            raise UserError(f"codes cannot be fitted to {len(x)} tracks with equal features")
        most = min(x.shape)
        parts = [
            itq_directions(x, min(most, self.n_bits - start), seed + start, _ITERATIONS)
            for start in range(0, self.n_bits, most)
        ]
        directions = torch.cat(parts, dim=1)
        # The length of a row before the fit.
        scale = math.sqrt(self.rotation.shape[1] / max(self.rotation.shape))
        self.center.copy_(x.mean(dim=0))
        self.rotation.copy_(scale * directions.T)
