"""OrthoHash: a single cosine loss with fixed orthogonal codes."""

from torch import Tensor, nn

from facereel.losses.binarize import hash_centers, signs
from facereel.losses.margin_softmax import margin_softmax
from facereel.losses.outputs import Outputs
from facereel.losses.ranges import check_ranges


class OrthoHashLoss(nn.Module):
    """Softmax over people of the cosines of real-valued codes to one fixed code per person, with a margin.

    Hoe, Ng, Zhang, Chan, Song and Xiang, "One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
    Objective", NeurIPS 2021. A maximal cosine to a code of -1 and 1 implies equal signs, so no quantization term is
    needed. Our choices: the real-valued code is 2 * score - 1, without the batch norm of the paper; the fixed codes
    come from `hash_centers`, also for more than K people; the scale and the margin.

    Args:
        n_people: number of classes.
        n_bits: K, the length of a code.
        seed: random seed of the fixed codes.
        scale: factor of the cosines before the softmax, > 0.
        margin: subtracted from the cosine to the correct code, >= 0.

    Raises:
        UserError: if a number is out of range, or K is too small for the number of people.
    """

    def __init__(self, n_people: int, n_bits: int, seed: int = 0, scale: float = 16.0, margin: float = 0.2) -> None:
        super().__init__()
        check_ranges({"scale": scale}, {"margin": margin})
        self.scale = scale
        self.margin = margin
        self.register_buffer("centers", hash_centers(n_people, n_bits, seed))
        self.centers: Tensor

    def forward(self, outputs: Outputs) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: outputs of the model for the batch.

        Returns:
            The scalar loss, the mean over codes; 0, with a zero gradient, without codes.
        """
        return margin_softmax(signs(outputs.scores), self.centers, outputs.labels, self.scale, self.margin)
