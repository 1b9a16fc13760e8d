"""Adapter for the losses of pytorch-metric-learning."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from facereel.losses.binarize import signs
from facereel.losses.outputs import Outputs


class MetricLearningLoss(nn.Module):
    """Adapter for a loss and miner of pytorch-metric-learning (the extra `metric`), on real-valued codes in -1..1.

    Most of its losses compare unit vectors, for which the order of distances is that of Hamming distances between
    codes.

    Args:
        loss: called with codes (N, K), labels (N,), and the result of the miner.
        miner: called with codes and labels; None uses all pairs.
    """

    def __init__(self, loss: Callable[..., Tensor], miner: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss; 0, with a zero gradient, without codes.
        """
        if not len(outputs.scores):
            return outputs.scores.sum()
        with torch.autocast(outputs.scores.device.type, enabled=False):
            codes = signs(outputs.scores)
            found = () if self.miner is None else (self.miner(codes, outputs.labels),)
            return self.loss(codes, outputs.labels, *found)
