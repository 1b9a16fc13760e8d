"""Central similarity: the codes of a person gather at a fixed centre."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from facereel.losses.binarise import hash_centres, quantisation
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class HashCentreLoss(nn.Module):
    """Binary cross-entropy of the scores to the person's fixed code, plus a weight times `quantisation`.

    Yuan, Wang, Zhang, Tay, Jie, Liu and Feng, "Central Similarity Quantization for Efficient Image and Video
    Retrieval", CVPR 2020. The weight, the mean over bits, and what `hash_centres` says are our choice.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        seed: of the centres.
        quantisation_weight: at least 0.

    Raises:
        UserError: for a weight out of range, or too few bits for so many people.
    """

    def __init__(self, n_people: int, n_bits: int, seed: int = 0, quantisation_weight: float = 0.1) -> None:
        super().__init__()
        check_ranges({}, {"quantisation_weight": quantisation_weight})
        self.quantisation_weight = quantisation_weight
        self.register_buffer("centres", hash_centres(n_people, n_bits, seed))
        self.centres: Tensor

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the scalar loss, the mean over codes; 0, with a zero gradient, if there is none."""
        scores = outputs.scores
        # On CUDA autocast refuses this cross-entropy, whatever the precision of its input.
        with torch.autocast(scores.device.type, enabled=False):
            bits = (self.centres[outputs.labels] > 0).to(scores.dtype)
            distance = binary_cross_entropy(scores, bits, reduction="sum") / max(1, scores.numel())
            return distance + self.quantisation_weight * quantisation(scores)
