"""The triplet losses of Deep Heterogeneous Hashing."""

import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.losses.outputs import Outputs

PAIRS = ("all", "cross_modal")


class TripletLoss(nn.Module):
    """Triplet loss: the mean of max(0, margin + d2(anchor, positive) - d2(anchor, negative)) on sigmoid outputs.

    d2 is the squared Euclidean distance. The mean is over all triplets, active or not, without mining. As in the
    released code of Qiao et al. (TIP 2020), the intra-still, intra-clip and inter-space terms all have weight 1.

    Args:
        margin: > 0, in squared distance (at most the number of bits), or per bit if `n_bits` is given.
        pairs: "all" triplets of any modality (stage 1), or "cross_modal" triplets, in which the modality of the
            negative differs from that of the anchor (stage 2: clip-still-still, clip-clip-still, still-clip-clip,
            still-still-clip).
        index_order: use only triplets with anchor < positive < negative in the batch, as the released code does.
        divide_by_margin: divide the loss by the margin; the released code divides the gradient.
        n_bits: factor of the margin, so that one configuration fits every code length. Our addition; the released
            margins for one data set, 2, 4 and 8 at 12, 24 and 48 bits, follow the same rule.

    Raises:
        UserError: if margin <= 0 or `pairs` is unknown.
    """

    def __init__(
        self,
        margin: float,
        pairs: str = "all",
        index_order: bool = False,
        divide_by_margin: bool = False,
        n_bits: int = 1,
    ) -> None:
        super().__init__()
        if not margin > 0:
            raise UserError(f"loss margin={margin}: must be > 0")
        if pairs not in PAIRS:
            raise UserError(f"loss pairs={pairs}: must be one of {', '.join(PAIRS)}")
        self.margin = margin * n_bits
        self.pairs = pairs
        self.index_order = index_order
        self.divide_by_margin = divide_by_margin

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss; 0, with a zero gradient, for a batch without a triplet.
        """
        scores, labels, is_clip = outputs.scores, outputs.labels, outputs.is_clip
        squares = scores.square().sum(dim=1)
        distance = (squares[:, None] + squares[None, :] - 2 * scores @ scores.T).clamp_min(0.0)
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        negative = ~same
        if self.pairs == "cross_modal":
            negative = negative & (is_clip[:, None] != is_clip[None, :])
        index = torch.arange(len(labels), device=labels.device)
        if self.index_order:
            positive = positive & (index[:, None] < index)
        # Rows are pairs of an anchor and a positive, columns are negatives: far fewer than all triples of codes.
        anchors, positives = positive.nonzero(as_tuple=True)
        triplets = negative[anchors]
        if self.index_order:
            triplets = triplets & (positives[:, None] < index)
        hinge = (self.margin + distance[anchors, positives][:, None] - distance[anchors]).clamp_min(0.0)
        loss = (hinge * triplets).sum() / triplets.sum().clamp_min(1)
        return loss / self.margin if self.divide_by_margin else loss
