"""Softmax with an additive margin."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def margin_softmax(x: Tensor, vectors: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Compute the cross-entropy of scaled cosines to one vector per person, with an additive margin.

    Wang, Cheng, Liu and Liu, "Additive Margin Softmax for Face Verification", IEEE SPL 2018.

    Args:
        x: (N, D) of any norm; converted to the dtype of `vectors`, also under autocast.
        vectors: (n_people, D) of any norm.
        labels: (N,) integer, the person of each row.
        scale: factor of the cosines before the softmax.
        margin: subtracted from the cosine to the correct vector.

    Returns:
        The scalar mean over rows; for N = 0 it is 0, with a zero gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        cosine = normalize(x.to(vectors.dtype), dim=1) @ normalize(vectors, dim=1).T
        margins = torch.zeros_like(cosine).scatter_(1, labels[:, None], margin)
        return cross_entropy(scale * (cosine - margins), labels, reduction="sum") / max(1, len(labels))
