"""Scores in 0..1 to signs -1 and 1, penalties on them, and fixed codes as centers."""

from math import comb, isqrt

import torch
from torch import Tensor

from facereel.errors import UserError

RELAXATIONS = ("scaled_tanh", "straight_through")


def signs(scores: Tensor) -> Tensor:
    """Map scores (N, K) in 0..1 to real-valued codes (N, K) in -1..1, whose signs are the bits."""
    return 2 * scores - 1


def binarize(scores: Tensor, how: str, slope: float = 1.0) -> Tensor:
    """Approximate the signs of scores with a nonzero gradient.

    Args:
        scores: (N, K) in 0..1.
        how: "scaled_tanh", tanh(slope * z / 2) of the logit z of the score: at slope 1 it is 2 * score - 1, and nearer
            to the signs the steeper it is (Cao, Long, Wang and Yu, "HashNet: Deep Learning to Hash by Continuation",
            ICCV 2017, who let the slope grow). Or "straight_through": the signs forward, the gradient of that tanh
            backward (after Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic
            Neurons", 2013, who pass the gradient on unchanged).
        slope: > 0.

    Returns:
        (N, K) in -1..1. The gradient is zero where a score is 0 or 1 within its precision.
    """
    soft = torch.tanh(slope / 2 * torch.logit(scores, eps=torch.finfo(scores.dtype).eps))
    if how == "scaled_tanh":
        return soft
    hard = torch.where(scores > 0.5, 1.0, -1.0).to(scores.dtype)
    # In this order: hard + soft - soft would be off by a rounding.
    return hard + (soft - soft.detach())


def quantization(scores: Tensor) -> Tensor:
    """Distance of real-valued codes from their bits: the mean of log cosh(1 - |2 * score - 1|); 0 without codes.

    The smooth form of Yuan et al. (CVPR 2020); the mean over bits is our choice.
    """
    return torch.log(torch.cosh(1 - signs(scores).abs())).sum() / max(1, scores.numel())


def bit_balance(scores: Tensor) -> Tensor:
    """Imbalance of bits: the mean over bits of the squared mean sign over the batch; 0 without codes.

    0 if every bit is as often 1 as 0, a common aim of hashing. The form is our choice.
    """
    return (signs(scores).sum(dim=0) / max(1, len(scores))).square().mean()


def hash_centers(n_people: int, n_bits: int, seed: int) -> Tensor:
    """Choose distant codes, one per person.

    Up to 2 K people get the rows of a Hadamard matrix, which differ in half of their bits, followed by their
    complements. More people get distinct random codes with half of their bits 1. So do Yuan et al. (CVPR 2020), with
    Sylvester's matrices (powers of 2). Our additions: Paley's matrices (12, 20, 24, 48, ...), and the seed draws which
    of a row and its complement comes first, since otherwise one bit is equal in all rows.

    Args:
        n_people: number of centers.
        n_bits: K, the length of each.
        seed: random seed.

    Returns:
        (n_people, K) float, -1 and 1.

    Raises:
        UserError: if there are fewer balanced codes of this length than people.
    """
    generator = torch.Generator().manual_seed(seed)
    matrix = _hadamard(n_bits)
    if matrix is not None and n_people <= 2 * n_bits:
        # The row of ones, the only one that is not half ones, comes last.
        rows = matrix.roll(-1, 0) * (2 * torch.randint(2, (n_bits, 1), generator=generator) - 1)
        return torch.cat([rows, -rows])[:n_people]
    if n_people > comb(n_bits, n_bits // 2):
        raise UserError(f"n_bits={n_bits}: too few bits for a center for each of {n_people} people; use more bits")
    ones = torch.empty(0, n_bits, dtype=torch.bool)
    while len(ones) < n_people:
        drawn = torch.rand(n_people, n_bits, generator=generator).argsort(dim=1) < n_bits // 2
        ones = torch.cat([ones, drawn]).unique(dim=0)  # type: ignore[no-untyped-call]
    ones = ones[torch.randperm(len(ones), generator=generator)[:n_people]]
    return torch.where(ones, 1.0, -1.0)


def _hadamard(n: int) -> Tensor | None:
    """Return a Hadamard matrix (n, n) whose first row is all ones; None if neither construction gives one.

    Paley's first construction, where n - 1 is a prime, and Sylvester's doubling.
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
    """Return I + S (q + 1, q + 1) for a prime q = 3 mod 4, with S of the quadratic residues mod q."""
    index = torch.arange(q)
    residue = -torch.ones(q)
    residue[index.square() % q] = 1.0
    residue[0] = 0.0
    matrix = torch.eye(q + 1)
    matrix[0, 1:] += 1.0
    matrix[1:, 0] -= 1.0
    matrix[1:, 1:] += residue[(index[:, None] - index) % q]
    return matrix
