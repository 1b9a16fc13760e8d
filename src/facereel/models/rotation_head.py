"""A hashing head that nothing is fitted to, for an encoder that is used as it comes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.models.head import checked_bits

# Of unit features about 0.5 is left once the centre is taken off, which a rotation spreads over all bits: this brings
# the scores' arguments to about 1. Half or twice as much changes no figure of ours by more than 0.003.
_SPREAD = 2.0


class RotationHead(nn.Module):
    """Normalise, take off a centre, rotate by a seeded random rotation, and squash. Nothing is learned from faces.

    Random hyperplanes (Charikar 2002) that are orthogonal; of more bits than features, the first columns of a rotation
    of that many bits. Stills are clips of one frame. Ours.

    Args:
        still_dim: not used; here so that all heads are built alike.
        clip_dim: D, length of a clip's pooled vector.
        n_bits: K, the length of a code.
        seed: of the rotation.

    Raises:
        UserError: for n_bits < 1.
    """

    pools_stills = True

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, seed: int = 0) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)
        side = max(n_bits, clip_dim)
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.empty(side, side, dtype=torch.float64)
        if not rotation.is_meta:  # where only shapes are asked for
            rotation = torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q
        self.rotation: Tensor
        self.centre: Tensor
        # Saved with the weights: another machine's QR may differ in the last bit.
        self.register_buffer("rotation", rotation[:n_bits, :clip_dim].float().contiguous())
        self.register_buffer("centre", torch.zeros(clip_dim))

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, K) in 0..1."""
        return self.forward_clips(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, K) in 0..1."""
        rotated = (normalize(pooled, dim=1) - self.centre) @ self.rotation.T
        return (_SPREAD * math.sqrt(self.n_bits) * rotated).sigmoid()
