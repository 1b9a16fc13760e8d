"""The losses of the package pytorch-metric-learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facereel.losses.binarise import signs
from facereel.losses.outputs import Outputs


class MetricLearningLoss(nn.Module):
    """Any loss and miner of pytorch-metric-learning (the extra `metric`), on real-valued codes in -1..1.

    Their distances are the losses' own: most compare unit vectors, as Hamming distance does for codes. Nothing is
    imported here; the configuration names the classes.

    Args:
        loss: called with (N, K) codes and (N,) labels, and with what the miner returns.
        miner: called with codes and labels; None if the loss takes all.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the loss's scalar; 0, with a zero gradient, without codes."""
        if not len(outputs.scores):
            return outputs.scores.sum()
        with torch.autocast(outputs.scores.device.type, enabled=False):
            codes = signs(outputs.scores)
            found = () if self.miner is None else (self.miner(codes, outputs.labels),)
            return self.loss(codes, outputs.labels, *found)
