"""The input of a loss."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Outputs of the model for a batch: S face images (stills and frames), N codes (clips and stills)."""

    features: Tensor
    """(S, D) encoder features of single images."""
    feature_labels: Tensor
    """(S,) integer, the person in each image."""
    scores: Tensor
    """(N, K) sigmoid outputs in 0..1; N = 0 if the stage does not train codes."""
    labels: Tensor
    """(N,) integer, the person of each code."""
    is_clip: Tensor
    """(N,) bool, False for a still."""
