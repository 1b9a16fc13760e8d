"""Asymmetric distance between real-valued scores and binary codes, by a lookup table per byte."""

import numpy as np
import torch
from torch import Tensor

from facereel.functional.hamming import pack_codes

# Queries in a block: many share one read of the codes, but the tables of too many would not fit in the cache.
QUERIES_AT_ONCE = 16


def asymmetric_distance(scores: Tensor, codes: Tensor) -> Tensor:
    """Compute the squared Euclidean distance between every row of scores and every code.

    The terms of eight bits are summed once for each of the 256 possible bytes and then looked up (asymmetric distance
    computation: Jégou, Douze and Schmid 2011). Equal codes get exactly equal distances, which a matrix product does not
    guarantee.

    Args:
        scores: (Q, K) float, usually in 0..1.
        codes: (N, K) bool.

    Returns:
        (Q, N) float64, computed on the CPU and moved to the device of `scores`.

    Raises:
        ValueError: if a shape or type is wrong.

    Examples:
        >>> asymmetric_distance(torch.tensor([[0.5, 1.0]]), torch.tensor([[True, True], [False, False]]))
        tensor([[0.2500, 1.2500]], dtype=torch.float64)
    """
    if scores.ndim != 2 or not scores.is_floating_point() or scores.shape[1:] != codes.shape[1:]:
        raise ValueError(
            f"scores must be float (Q, K) and codes (N, K), not {scores.dtype} {tuple(scores.shape)} and "
            f"{tuple(codes.shape)}"
        )
    packed = pack_codes(codes)
    distances = torch.zeros(len(scores), len(codes), dtype=torch.float64)
    for start in range(0, len(scores), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        distances[rows] = look_up(byte_tables(scores[rows]), packed)
    return distances.to(scores.device)


def byte_tables(scores: Tensor) -> Tensor:
    """Tabulate the distance that each byte of a packed code adds.

    Args:
        scores: (Q, K) float.

    Returns:
        (ceil(K / 8), 256, Q) float64, on the CPU.
    """
    padded = torch.nn.functional.pad(scores.detach().cpu().double(), (0, -scores.shape[1] % 8))
    bits = padded.T.reshape(padded.shape[1] // 8, 8, len(scores)).transpose(0, 1)
    tables = torch.zeros(bits.shape[1], 1, len(scores), dtype=torch.float64)
    # Each bit doubles the table, from the lowest bit to the highest, which is the first bit of a code.
    for score in bits.flip(0).unsqueeze(2):
        tables = torch.cat([tables + score.square(), tables + (1 - score).square()], dim=1)
    return tables


def look_up(tables: Tensor, packed: Tensor) -> Tensor:
    """Sum the entries of `byte_tables` for the bytes of codes.

    Args:
        tables: (W, 256, Q) float64, from `byte_tables`.
        packed: (N, W) uint8, from `pack_codes`.

    Returns:
        (Q, N) float64 distances, on the CPU.
    """
    distances = np.zeros((len(packed), tables.shape[2]))
    # On one thread numpy.take is three times as fast as torch.index_select.
    for table, column in zip(tables.numpy(), packed.cpu().numpy().T, strict=True):
        distances += table.take(column, axis=0)
    return torch.from_numpy(distances.T)
