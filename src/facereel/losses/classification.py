"""Classification of single images, for pretraining an encoder."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs


class ClassificationLoss(nn.Module):
    """Softmax over people of the cosines to one learned vector per person, with an additive margin.

    See `margin_softmax`. The pretraining recipe of the DHH paper is unknown; this loss, its scale and its margin are
    our choice.

    Args:
        n_people: number of classes.
        dim: length of a feature.
        scale: factor of the cosines before the softmax.
        margin: subtracted from the cosine to the correct class; 0 gives the plain normalized softmax.
    """

    def __init__(self, n_people: int, dim: int, scale: float = 24.0, margin: float = 0.2) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(n_people, dim))
        nn.init.normal_(self.weight)

    @property
    def proxies(self) -> Tensor:
        """Learned vectors, (n_people, dim), of any norm."""
        return self.weight

    @torch.no_grad()
    def start_from(self, features: Tensor, labels: Tensor) -> None:
        """Set the vector of each person in `labels` to the mean direction of that person's features.

        Args:
            features: (N, D) features of single images.
            labels: (N,) integer, the person of each image.
        """
        units = normalize(features.to(self.weight.dtype), dim=1)
        sums = torch.zeros_like(self.weight).index_add(0, labels, units)
        present = torch.bincount(labels, minlength=len(sums)) > 0
        self.weight[present] = normalize(sums[present], dim=1)

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss, the mean over images.
        """
        return margin_softmax(outputs.features, self.weight, outputs.feature_labels, self.scale, self.margin)
