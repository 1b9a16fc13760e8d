"""Classification of single pictures, for pretraining an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs


class ClassificationLoss(nn.Module):
    """Softmax over people by the cosine to a learned vector each, with an additive margin on the right one.

    Wang, Cheng, Liu and Liu, "Additive Margin Softmax for Face Verification", IEEE SPL 2018. The DHH paper pretrains by
    classification; its recipe is unknown, so this one, its scale and its margin are our choice.

    Args:
        n_people: number of classes.
        dim: length of a feature.
        scale: what cosines are multiplied with before the softmax.
        margin: subtracted from the cosine to the right class; 0 is the plain normalised softmax.
    """

    def __init__(self, n_people: int, dim: int, scale: float = 24.0, margin: float = 0.2) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(n_people, dim))
        nn.init.normal_(self.weight)

    @property
    def proxies(self) -> Tensor:
        """(n_people, dim) the learned vectors, of any length."""
        return self.weight

    @torch.no_grad()
    def start_from(self, features: Tensor, labels: Tensor) -> None:
        """Set each person's vector to the mean of their features (N, D), labels (N,); others stay as they are."""
        units = normalize(features.to(self.weight.dtype), dim=1)
        sums = torch.zeros_like(self.weight).index_add(0, labels, units)
        present = torch.bincount(labels, minlength=len(sums)) > 0
        self.weight[present] = normalize(sums[present], dim=1)

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the scalar loss, the mean over pictures."""
        return margin_softmax(outputs.features, self.weight, outputs.feature_labels, self.scale, self.margin)
