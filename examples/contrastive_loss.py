"""A loss of your own, used by your_own_loss.ipynb."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.losses import Outputs


class ContrastiveLoss(nn.Module):
    """Pull codes of one person together and push those of others away; keep scores away from 0.5.

    The supervised contrastive loss (Khosla et al., NeurIPS 2020) on the cosine of 2 * score - 1.

    Args:
        n_people: number of people in the data; not used here.
        n_bits: length of a code; not used here.
        temperature: smaller values push the nearest other people harder.
        binary_weight: weight of the penalty for scores near 0.5.
    """

    def __init__(self, n_people: int, n_bits: int, temperature: float = 0.2, binary_weight: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.binary_weight = binary_weight

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the scalar loss; 0 for a batch without two codes."""
        codes = 2 * outputs.scores - 1
        if len(codes) < 2:
            return codes.sum() * 0.0
        itself = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        same = (outputs.labels[:, None] == outputs.labels) & ~itself
        cosine = normalize(codes) @ normalize(codes).T
        log_probability = (cosine / self.temperature).masked_fill(itself, -math.inf).log_softmax(dim=1)
        contrast = -log_probability.masked_fill(~same, 0.0).sum() / same.sum().clamp_min(1)
        return contrast + self.binary_weight * (1 - codes.abs()).mean()
