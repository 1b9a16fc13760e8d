"""The multi-similarity loss, on a similarity that corresponds to Hamming distance."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from facereel.errors import UserError
from facereel.losses.binarize import signs
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss: pulls together codes of the same person and pushes apart others, hard pairs most.

    The loss of Wang, Han, Huang, Dong and Scott, "Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning", CVPR 2019, eq. 15, without their mining, and with another similarity: the inner product of real-valued
    codes in -1..1, divided by K, which for bits is 1 - 2 (Hamming distance) / K. Unlike a cosine it grows as codes
    approach bits, so no separate quantization term is needed. Our choice.

    Args:
        positive_scale: weight of hard positive pairs, > 0.
        negative_scale: weight of hard negative pairs, > 0.
        base: similarity that separates positive from negative pairs, -1..1.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(self, positive_scale: float = 2.0, negative_scale: float = 40.0, base: float = 0.3) -> None:
        super().__init__()
        check_ranges({"positive_scale": positive_scale, "negative_scale": negative_scale}, {})
        if not -1 <= base <= 1:
            raise UserError(f"loss base={base}: must be in -1..1")
        self.positive_scale, self.negative_scale, self.base = positive_scale, negative_scale, base

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss; 0, with a zero gradient, for a batch without codes.
        """
        labels = outputs.labels
        with torch.autocast(outputs.scores.device.type, enabled=False):
            codes = signs(outputs.scores)
            similarity = codes @ codes.T / codes.shape[1] - self.base
            same = labels[:, None] == labels[None, :]
            others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
            positive = _mean_log(-self.positive_scale * similarity, same & others)
            negative = _mean_log(self.negative_scale * similarity, ~same)
            return positive / self.positive_scale + negative / self.negative_scale


def _mean_log(exponents: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean over rows of log(1 + sum of exp(exponent) over the chosen columns)."""
    if not len(exponents):
        return exponents.sum()
    # The logarithm of an empty sum is about -infinity; its softplus is 0 with a zero gradient.
    lowest = torch.finfo(exponents.dtype).min
    return softplus(exponents.masked_fill(~chosen, lowest).logsumexp(dim=1)).mean()
