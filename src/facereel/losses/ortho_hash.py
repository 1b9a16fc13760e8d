"""One cosine loss to fixed orthogonal codes."""

from __future__ import annotations

from torch import Tensor, nn

from facereel.losses.binarise import hash_centres, signs
from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class OrthoHashLoss(nn.Module):
    """Softmax over people by the cosine of the real-valued code to a fixed code each, with a margin on the right one.

    Hoe, Ng, Zhang, Chan, Song and Xiang, "One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
    Objective", NeurIPS 2021. A code whose cosine to a code of -1 and 1 is 1 is its multiple, so there is no term for
    quantisation. Ours: the real-valued code is 2 * score - 1, without the paper's batch norm; beyond K people the
    complements of orthogonal codes serve too, and beyond 2 K random ones (`hash_centres`); scale and margin.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        seed: of the fixed codes.
        scale: > 0, what cosines are multiplied with before the softmax.
        margin: at least 0, subtracted from the cosine to the right code.

    Raises:
        UserError: for a number out of range, or too few bits for so many people.
    """

    def __init__(self, n_people: int, n_bits: int, seed: int = 0, scale: float = 16.0, margin: float = 0.2) -> None:
        super().__init__()
        check_ranges({"scale": scale}, {"margin": margin})
        self.scale = scale
        self.margin = margin
        self.register_buffer("centres", hash_centres(n_people, n_bits, seed))
        self.centres: Tensor

    def forward(self, outputs: Outputs) -> Tensor:
        """Return the scalar loss, the mean over codes; 0, with a zero gradient, if there is none."""
        return margin_softmax(signs(outputs.scores), self.centres, outputs.labels, self.scale, self.margin)
