"""From scores in 0..1 to signs -1 and 1, and what losses want of them."""

from __future__ import annotations

from math import comb, isqrt

import torch
from torch import Tensor

from facereel.errors import UserError

RELAXATIONS = ("scaled_tanh", "straight_through")


def signs(scores: Tensor) -> Tensor:
    """(N, K) in 0..1 -> (N, K) in -1..1: the real-valued code, whose signs are the bits."""
    return 2 * scores - 1


def binarise(scores: Tensor, how: str, slope: float = 1.0) -> Tensor:
    """Bring scores towards their signs, with a gradient that is not zero.

    Args:
        scores: (N, K) in 0..1.
        how: "scaled_tanh", tanh(slope * z / 2), where z is the logit of the score: at slope 1 it is 2 * score - 1, and
            the steeper the nearer to the signs (Cao, Long, Wang and Yu, "HashNet: Deep Learning to Hash by
            Continuation", ICCV 2017, who let the slope grow). Or "straight_through": exactly the signs forward, the
            gradient of that tanh backward (after Bengio, Leonard and Courville, "Estimating or Propagating Gradients
            Through Stochastic Neurons", 2013, who pass the gradient on unchanged).
        slope: > 0.

    Returns:
        (N, K) in -1..1. Where a score is 0 or 1 to within its precision, the gradient is zero, as a sigmoid's is there.
    """
    soft = torch.tanh(slope / 2 * torch.logit(scores, eps=torch.finfo(scores.dtype).eps))
    if how == "scaled_tanh":
        return soft
    hard = torch.where(scores > 0.5, 1.0, -1.0).to(scores.dtype)
    # In this order: hard + soft - soft would be off by a rounding.
    return hard + (soft - soft.detach())


def quantisation(scores: Tensor) -> Tensor:
    """How far real-valued codes are from their bits: the mean of log cosh(1 - |2 * score - 1|); 0 without codes.

    The smooth form in Yuan et al. (CVPR 2020); the mean over bits is ours.
    """
    return torch.log(torch.cosh(1 - signs(scores).abs())).sum() / max(1, scores.numel())


def bit_balance(scores: Tensor) -> Tensor:
    """How far bits are from being 1 half of the time: the squared mean sign of each over the batch, in the mean.

    0 without codes, or where each bit is as often 1 as it is 0. Our choice of a common aim of hashing.
    """
    return (signs(scores).sum(dim=0) / max(1, len(scores))).square().mean()


def hash_centres(n_people: int, n_bits: int, seed: int) -> Tensor:
    """Far-off codes, one a person.

    The rows of a Hadamard matrix, which differ in half of their bits, and behind them their complements, if these
    are enough. Else random codes with half of their bits 1, no two alike. Yuan et al. (CVPR 2020) do likewise; theirs
    are Sylvester's matrices, for powers of 2, ours also Paley's (12, 20, 24, 48, ...). Ours too: the seed draws which
    of a row and its complement comes first, as else one bit would be the same in all rows.

    Args:
        n_people: number of centres.
        n_bits: K, the length of each.
        seed: of random draws.

    Returns:
        (n_people, K) float, -1 and 1.

    Raises:
        UserError: if there are not so many balanced codes of this length.
    """
    generator = torch.Generator().manual_seed(seed)
    matrix = _hadamard(n_bits)
    if matrix is not None and n_people <= 2 * n_bits:
        # The row of ones, the only one that is not half ones, comes last.
        rows = matrix.roll(-1, 0) * (2 * torch.randint(2, (n_bits, 1), generator=generator) - 1)
        return torch.cat([rows, -rows])[:n_people]
    if n_people > comb(n_bits, n_bits // 2):
        raise UserError(f"head.n_bits={n_bits}: too few bits for a centre for each of {n_people} people")
    ones = torch.empty(0, n_bits, dtype=torch.bool)
    while len(ones) < n_people:
        drawn = torch.rand(n_people, n_bits, generator=generator).argsort(dim=1) < n_bits // 2
        ones = torch.cat([ones, drawn]).unique(dim=0)  # type: ignore[no-untyped-call]
    ones = ones[torch.randperm(len(ones), generator=generator)[:n_people]]
    return torch.where(ones, 1.0, -1.0)


def _hadamard(n: int) -> Tensor | None:
    """(n, n) of -1 and 1 with orthogonal rows, the first all ones; None if neither construction reaches n.

    Paley's first construction where n - 1 is a prime, and Sylvester's doubling.
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
    """(q + 1, q + 1), for a prime q = 3 mod 4: I + S, S of the quadratic residues; the first row is all ones."""
    index = torch.arange(q)
    residue = -torch.ones(q)
    residue[index.square() % q] = 1.0
    residue[0] = 0.0
    matrix = torch.eye(q + 1)
    matrix[0, 1:] += 1.0
    matrix[1:, 0] -= 1.0
    matrix[1:, 1:] += residue[(index[:, None] - index) % q]
    return matrix
