"""Classification of codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.losses.binarise import RELAXATIONS, binarise, bit_balance, quantisation
from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class CodeClassificationLoss(nn.Module):
    """Softmax over people by the cosine of the binarised code to a learned vector each, with a margin on the right one.

    The additive margin of Wang, Cheng, Liu and Liu (IEEE SPL 2018) on codes in place of features, plus `quantisation`
    and `bit_balance`, weighted. Their combination and all numbers are our choice.

    The vectors have the length of a code, not of a feature, so `SphericalAugment` cannot take them for class means.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        scale: > 0, what cosines are multiplied with before the softmax.
        margin: at least 0, subtracted from the cosine to the right vector.
        relaxation: how the scores are binarised: "straight_through" or "scaled_tanh", see `binarise`.
        slope: > 0, of that tanh.
        quantisation_weight: at least 0.
        balance_weight: at least 0.

    Raises:
        UserError: for an unknown relaxation or a number out of range.
    """

    def __init__(
        self,
        n_people: int,
        n_bits: int,
        scale: float = 16.0,
        margin: float = 0.2,
        relaxation: str = "straight_through",
        slope: float = 1.0,
        quantisation_weight: float = 0.1,
        balance_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if relaxation not in RELAXATIONS:
            raise UserError(f"loss relaxation={relaxation}: must be one of {', '.join(RELAXATIONS)}")
        weights = {"quantisation_weight": quantisation_weight, "balance_weight": balance_weight}
        check_ranges({"scale": scale, "slope": slope}, {"margin": margin, **weights})
        self.scale = scale
        self.margin = margin
        self.relaxation = relaxation
        self.slope = slope
        self.quantisation_weight = quantisation_weight
        self.balance_weight = balance_weight
        self.weight = nn.Parameter(torch.empty(n_people, n_bits))
        nn.init.normal_(self.weight)

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the scalar loss, the mean over codes; 0, with a zero gradient, if there is none."""
        scores = outputs.scores
        codes = binarise(scores, self.relaxation, self.slope)
        loss = margin_softmax(codes, self.weight, outputs.labels, self.scale, self.margin)
        return loss + self.quantisation_weight * quantisation(scores) + self.balance_weight * bit_balance(scores)
