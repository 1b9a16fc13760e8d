"""Central similarity quantization (CSQ): the codes of each person are pulled to a fixed center."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from facereel.losses.binarize import hash_centers, quantization
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class HashCenterLoss(nn.Module):
    """Binary cross-entropy between the scores and the person's fixed code, plus weighted `quantization`.

    Yuan, Wang, Zhang, Tay, Jie, Liu and Feng, "Central Similarity Quantization for Efficient Image and Video
    Retrieval", CVPR 2020. The weight, the mean over bits, and the deviations in `hash_centers` are our choice.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        seed: random seed of the centers.
        quantization_weight: weight of the quantization term, >= 0.

    Raises:
        UserError: if the weight is out of range, or K is too small for the number of people.
    """

    def __init__(self, n_people: int, n_bits: int, seed: int = 0, quantization_weight: float = 0.1) -> None:
        super().__init__()
        check_ranges({}, {"quantization_weight": quantization_weight})
        self.quantization_weight = quantization_weight
        self.register_buffer("centers", hash_centers(n_people, n_bits, seed))
        self.centers: Tensor

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss, the mean over codes; 0, with a zero gradient, without codes.
        """
        scores = outputs.scores
        # On CUDA, this cross-entropy raises an error under autocast.
        with torch.autocast(scores.device.type, enabled=False):
            bits = (self.centers[outputs.labels] > 0).to(scores.dtype)
            distance = binary_cross_entropy(scores, bits, reduction="sum") / max(1, scores.numel())
            return distance + self.quantization_weight * quantization(scores)
