"""Hashing heads: pooled features become K numbers in 0..1, whose bits are output > 0.5."""

from __future__ import annotations

from torch import Tensor, nn

from facereel.errors import UserError


class SeparateHeads(nn.Module):
    """One linear hash layer for stills and one for clips, as in the DHH paper.

    Args:
        still_dim: length of a still's feature.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        dropout: chance to drop an input; 0.4 in the released code.
    """

    # A still enters as the encoder's feature, not as a pooled clip of one frame.
    pools_stills = False

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)
        self.still = _hash_layer(still_dim, n_bits, dropout)
        self.clip = _hash_layer(clip_dim, n_bits, dropout)

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """(B, still_dim) -> (B, K) in 0..1."""
        return self.still(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.clip(pooled)


class SharedHead(nn.Module):
    """One linear hash layer for both: a still is a clip of one frame. Ours.

    Args:
        still_dim: not used; here so that both heads are built alike.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        dropout: chance to drop an input.
    """

    pools_stills = True

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)
        self.both = _hash_layer(clip_dim, n_bits, dropout)

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.both(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """(B, clip_dim) -> (B, K) in 0..1."""
        return self.both(pooled)


def _hash_layer(dim: int, n_bits: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, n_bits), nn.Sigmoid())


def checked_bits(n_bits: int) -> int:
    """Return K, or raise a UserError if it is no length of a code."""
    if n_bits < 1:
        raise UserError(f"head.n_bits={n_bits}: a code needs at least one bit")
    return n_bits
