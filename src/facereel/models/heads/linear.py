"""Hashing heads: they map pooled features to K scores in 0..1; a bit is score > 0.5."""

import torch
from torch import Tensor, nn

from facereel.errors import UserError


class SeparateHeads(nn.Module):
    """One linear hash layer for stills and one for clips, as in the DHH paper.

    Args:
        still_dim: length of a still's feature.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        dropout: probability of dropping an input; 0.4 in the released code.

    Raises:
        UserError: if n_bits < 1.
    """

    # A still enters as the encoder's feature, not as a pooled clip of one frame.
    pools_stills = False

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)
        self.still = _hash_layer(still_dim, n_bits, dropout)
        self.clip = _hash_layer(clip_dim, n_bits, dropout)

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """Compute the scores of stills.

        Args:
            pooled: (B, still_dim) features of stills.

        Returns:
            (B, K) scores in 0..1.
        """
        return self.still(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """Compute the scores of clips.

        Args:
            pooled: (B, clip_dim) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        return self.clip(pooled)

    @torch.no_grad()
    def calibrate(self, still_scores: Tensor, clip_scores: Tensor) -> None:
        """Bring the real-valued outputs of both layers to the same scale; the codes do not change.

        Each layer is divided by the mean magnitude of its logits. Otherwise, if all outputs of one layer are near 0.5,
        distances to them measure how confident the other layer is, not how similar two faces are. Our addition.

        Args:
            still_scores: (M, K) outputs for training stills.
            clip_scores: (N, K) outputs for training clips.
        """
        for layer, scores in ((self.still, still_scores), (self.clip, clip_scores)):
            if len(scores):
                eps = torch.finfo(scores.dtype).eps
                scale = float(scores.logit(eps).abs().mean().clamp_min(eps))
                for parameter in layer.parameters():
                    parameter.div_(scale)


class OneHead(nn.Module):
    """Base class of the heads that hash a still as a clip of one frame.

    Args:
        n_bits: K, the length of a code.
    """

    pools_stills = True

    def __init__(self, n_bits: int) -> None:
        super().__init__()
        self.n_bits = checked_bits(n_bits)

    def forward_stills(self, pooled: Tensor) -> Tensor:
        """Compute the scores of stills.

        Args:
            pooled: (B, clip_dim) stills, pooled as clips of one frame.

        Returns:
            (B, K) scores in 0..1.
        """
        return self.forward_clips(pooled)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """Compute the scores of clips.

        Args:
            pooled: (B, clip_dim) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        raise NotImplementedError


class SharedHead(OneHead):
    """One linear hash layer for stills and clips. Our addition.

    Args:
        still_dim: not used; all heads take it.
        clip_dim: length of a clip's pooled vector.
        n_bits: K, the length of a code.
        dropout: probability of dropping an input.

    Raises:
        UserError: if n_bits < 1.
    """

    def __init__(self, still_dim: int, clip_dim: int, n_bits: int, dropout: float = 0.4) -> None:
        super().__init__(n_bits)
        self.both = _hash_layer(clip_dim, n_bits, dropout)

    def forward_clips(self, pooled: Tensor) -> Tensor:
        """Compute the scores of clips.

        Args:
            pooled: (B, clip_dim) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        return self.both(pooled)


def _hash_layer(dim: int, n_bits: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, n_bits), nn.Sigmoid())


def checked_bits(n_bits: int) -> int:
    """Check a code length.

    Args:
        n_bits: K, the length of a code.

    Returns:
        The same length.

    Raises:
        UserError: if n_bits < 1.
    """
    if n_bits < 1:
        raise UserError(f"n_bits={n_bits}: must be at least 1")
    return n_bits
