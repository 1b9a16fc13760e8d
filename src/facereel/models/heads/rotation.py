"""A hashing head that needs no training, for a pretrained encoder."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.models.heads.linear import OneHead

# Centered unit features have a length of about 0.5, which a rotation spreads over all bits: this factor brings the
# arguments of the sigmoid to about 1. Half or twice the factor changes our results by at most 0.003.
_SPREAD = 2.0


class RotationHead(OneHead):
    """Normalize, subtract a center, apply a random rotation, and take the sigmoid. Nothing is learned from faces.

    The hyperplanes are random and orthogonal (after Charikar 2002); for K > D they are the first D columns of a
    rotation in K dimensions. Our choice.

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
