"""What a training step hands to its loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """The batch after the model; S pictures of faces (stills and frames alike), N codes (clips and stills)."""

    features: Tensor
    """(S, D) encoder features of single pictures."""
    feature_labels: Tensor
    """(S,) integer, the person on each."""
    scores: Tensor
    """(N, K) sigmoid outputs in 0..1; N = 0 when the stage trains no codes."""
    labels: Tensor
    """(N,) integer."""
    is_clip: Tensor
    """(N,) bool, False for a still."""
