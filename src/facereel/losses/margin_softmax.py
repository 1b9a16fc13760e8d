"""The softmax with a margin that losses share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def margin_softmax(x: Tensor, vectors: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scaled cosines to a vector a person, with an additive margin on the right one.

    Wang, Cheng, Liu and Liu, "Additive Margin Softmax for Face Verification", IEEE SPL 2018.

    Args:
        x: (N, D) of any length; computed in the vectors' precision, whatever autocast says.
        vectors: (n_people, D) of any length.
        labels: (N,) integer.
        scale: what cosines are multiplied with before the softmax.
        margin: subtracted from the cosine to the right vector.

    Returns:
        The mean over rows; 0, with a zero gradient, if there is none.
    """
    with torch.autocast(x.device.type, enabled=False):
        cosine = normalize(x.to(vectors.dtype), dim=1) @ normalize(vectors, dim=1).T
        margins = torch.zeros_like(cosine).scatter_(1, labels[:, None], margin)
        return cross_entropy(scale * (cosine - margins), labels, reduction="sum") / max(1, len(labels))
