"""Conversion of scores in 0..1 to signs -1 and 1, penalties on scores, and fixed codes as centers."""

from math import comb, isqrt

import torch
from torch import Tensor

from facereel.errors import UserError

RELAXATIONS = ("scaled_tanh", "straight_through")


def signs(scores: Tensor) -> Tensor:
    """Map scores to real-valued codes; the signs of the codes are the bits.

    Args:
        scores: (N, K) in 0..1.

    Returns:
        (N, K) in -1..1, in the dtype of `scores`.
    """
    return 2 * scores - 1


def binarize(scores: Tensor, how: str, slope: float = 1.0) -> Tensor:
    """Approximate the signs of scores with a nonzero gradient.

    Args:
        scores: (N, K) in 0..1.
        how: "scaled_tanh" is tanh(slope * z / 2) of the logit z of a score: 2 * score - 1 at slope 1, and closer to the
            signs for a larger slope (Cao, Long, Wang and Yu, "HashNet: Deep Learning to Hash by Continuation", ICCV
            2017, who increase the slope during training). "straight_through" uses the signs in the forward pass and the
            gradient of that tanh in the backward pass (after Bengio, Leonard and Courville, "Estimating or Propagating
            Gradients Through Stochastic Neurons", 2013, who pass the gradient through unchanged).
        slope: slope of the tanh, > 0.

    Returns:
        (N, K) in -1..1, in the dtype of `scores`. The gradient is zero where a score is 0 or 1 up to rounding.
    """
    soft = torch.tanh(slope / 2 * torch.logit(scores, eps=torch.finfo(scores.dtype).eps))
    if how == "scaled_tanh":
        return soft
    hard = torch.where(scores > 0.5, 1.0, -1.0).to(scores.dtype)
    # The order matters: hard + soft - soft would have a rounding error.
    return hard + (soft - soft.detach())


def quantization(scores: Tensor) -> Tensor:
    """Compute the distance of real-valued codes from their bits: the mean of log cosh(1 - |2 * score - 1|).

    The smooth form of Yuan et al. (CVPR 2020); the mean over bits is our choice.

    Args:
        scores: (N, K) in 0..1.

    Returns:
        The scalar mean; 0 for N = 0.
    """
    return torch.log(torch.cosh(1 - signs(scores).abs())).sum() / max(1, scores.numel())


def bit_balance(scores: Tensor) -> Tensor:
    """Compute the imbalance of bits: the mean over bits of the squared mean sign over the batch.

    It is 0 if every bit is 1 as often as 0, a common aim of hashing. The form is our choice.

    Args:
        scores: (N, K) in 0..1.

    Returns:
        The scalar imbalance; 0 for N = 0.
    """
    return (signs(scores).sum(dim=0) / max(1, len(scores))).square().mean()


def hash_centers(n_people: int, n_bits: int, seed: int) -> Tensor:
    """Choose codes that are far apart, one per person.

    Up to 2 K people get the rows of a Hadamard matrix, which differ in half of their bits, followed by their
    complements. More people get distinct random codes, in which half of the bits are 1. Yuan et al. (CVPR 2020) do the
    same with Sylvester's matrices (powers of 2). Our additions: Paley's matrices (12, 20, 24, 48, ...); and the seed
    determines whether a row or its complement comes first, because otherwise one bit would be equal in all rows.

    Args:
        n_people: number of centers.
        n_bits: K, the length of a center.
        seed: random seed.

    Returns:
        (n_people, K) float32, with entries -1 and 1.

    Raises:
        UserError: if there are fewer balanced codes of this length than people.
    """
    generator = torch.Generator().manual_seed(seed)
    matrix = _hadamard(n_bits)
    if matrix is not None and n_people <= 2 * n_bits:
        # The row of ones comes last: it is the only one that is not balanced.
        rows = matrix.roll(-1, 0) * (2 * torch.randint(2, (n_bits, 1), generator=generator) - 1)
        return torch.cat([rows, -rows])[:n_people]
    if n_people > comb(n_bits, n_bits // 2):
        raise UserError(f"n_bits={n_bits}: too few bits for {n_people} distinct centers, one per person; use more bits")
    ones = torch.empty(0, n_bits, dtype=torch.bool)
    while len(ones) < n_people:
        drawn = torch.rand(n_people, n_bits, generator=generator).argsort(dim=1) < n_bits // 2
        ones = torch.cat([ones, drawn]).unique(dim=0)  # type: ignore[no-untyped-call]
    ones = ones[torch.randperm(len(ones), generator=generator)[:n_people]]
    return torch.where(ones, 1.0, -1.0)


def _hadamard(n: int) -> Tensor | None:
    """Return a Hadamard matrix (n, n) with ones in its first row; None if neither construction gives one.

    The constructions are Paley's first one, if n - 1 is a prime, and Sylvester's doubling.
    """
    if n == 1:
        return torch.ones(1, 1)
    if n == 2 or n % 4 == 0:
        q = n - 1
        if n > 2 and all(q % factor for factor in range(2, isqrt(q) + 1)):
            return _paley(q)
        half = _hadamard(n // 2)
        if half is not None:
            return torch.cat([torch.cat([half, half], dim=1), torch.cat([half, -half], dim=1)])
    return None


def _paley(q: int) -> Tensor:
    """Return I + S (q + 1, q + 1) for a prime q = 3 mod 4, where S is built from the quadratic residues mod q."""
    index = torch.arange(q)
    residue = -torch.ones(q)
    residue[index.square() % q] = 1.0
    residue[0] = 0.0
    matrix = torch.eye(q + 1)
    matrix[0, 1:] += 1.0
    matrix[1:, 0] -= 1.0
    matrix[1:, 1:] += residue[(index[:, None] - index) % q]
    return matrix
