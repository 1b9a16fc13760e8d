"""Classification of codes, with relaxed bits."""

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.losses.binarize import RELAXATIONS, binarize, bit_balance, quantization
from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class CodeClassificationLoss(nn.Module):
    """Softmax over people of the cosines of binarized codes to one learned vector per person, with a margin.

    `margin_softmax` on codes, plus weighted `quantization` and `bit_balance`. The combination and all default values
    are our choice. `SphericalAugment` cannot use the vectors as class means, since they are codes.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        scale: factor of the cosines before the softmax, > 0.
        margin: subtracted from the cosine to the correct vector, >= 0.
        relaxation: "straight_through" or "scaled_tanh"; see `binarize`.
        slope: slope of the tanh, > 0.
        quantization_weight: weight of the quantization term, >= 0.
        balance_weight: weight of the bit balance term, >= 0.

    Raises:
        UserError: if the relaxation is unknown or a number is out of range.
    """

    def __init__(  # noqa: PLR0913 (each is a key of the configuration)
        self,
        n_people: int,
        n_bits: int,
        scale: float = 16.0,
        margin: float = 0.2,
        relaxation: str = "straight_through",
        slope: float = 1.0,
        quantization_weight: float = 0.1,
        balance_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if relaxation not in RELAXATIONS:
            raise UserError(f"loss relaxation={relaxation}: must be one of {', '.join(RELAXATIONS)}")
        weights = {"quantization_weight": quantization_weight, "balance_weight": balance_weight}
        check_ranges({"scale": scale, "slope": slope}, {"margin": margin, **weights})
        self.scale = scale
        self.margin = margin
        self.relaxation = relaxation
        self.slope = slope
        self.quantization_weight = quantization_weight
        self.balance_weight = balance_weight
        self.weight = nn.Parameter(torch.empty(n_people, n_bits))
        nn.init.normal_(self.weight)

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss, the mean over codes; 0, with a zero gradient, without codes.
        """
        scores = outputs.scores
        codes = binarize(scores, self.relaxation, self.slope)
        loss = margin_softmax(codes, self.weight, outputs.labels, self.scale, self.margin)
        return loss + self.quantization_weight * quantization(scores) + self.balance_weight * bit_balance(scores)
