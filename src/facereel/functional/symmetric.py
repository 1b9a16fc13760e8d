"""Symmetric matrices as vectors of their upper triangle."""

import math

import torch
from torch import Tensor


def half_vectorize(matrices: Tensor) -> Tensor:
    """Flatten the upper triangle, with off-diagonal entries multiplied by sqrt(2), which keeps inner products.

    Args:
        matrices: (..., D, D) floating point, symmetric; the lower triangle is not read.

    Returns:
        (..., D (D + 1) / 2) in the dtype of `matrices`, row by row.

    Raises:
        ValueError: if the matrices are not square or not floating point.

    Examples:
        >>> half_vectorize(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor([1.0000, 2.8284, 3.0000])
    """
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2] or not matrices.is_floating_point():
        raise ValueError(f"matrices must be floating point (..., D, D), not {matrices.dtype} {tuple(matrices.shape)}")
    dim = matrices.shape[-1]
    row, column = torch.triu_indices(dim, dim, device=matrices.device)
    factor = matrices.new_full(row.shape, math.sqrt(2)).masked_fill(row == column, 1.0)
    return matrices.flatten(-2).index_select(-1, row * dim + column) * factor


def half_unvectorize(vectors: Tensor) -> Tensor:
    """Rebuild symmetric matrices from vectors: the inverse of `half_vectorize`.

    Args:
        vectors: (..., D (D + 1) / 2) floating point.

    Returns:
        (..., D, D) symmetric, in the dtype of `vectors`.

    Raises:
        ValueError: if the length is not D (D + 1) / 2 for any D, or the dtype is not floating point.

    Examples:
        >>> half_unvectorize(torch.tensor([1.0, 0.0, 3.0]))
        tensor([[1., 0.],
                [0., 3.]])
    """
    length = vectors.shape[-1] if vectors.ndim else 0
    dim = (math.isqrt(8 * length + 1) - 1) // 2
    if vectors.ndim == 0 or dim * (dim + 1) // 2 != length or not vectors.is_floating_point():
        raise ValueError(
            f"vectors must be floating point (..., D (D + 1) / 2), not {vectors.dtype} {tuple(vectors.shape)}"
        )
    row, column = torch.triu_indices(dim, dim, device=vectors.device)
    factor = vectors.new_full(row.shape, math.sqrt(0.5)).masked_fill(row == column, 1.0)
    place = torch.empty(dim, dim, dtype=torch.int64, device=vectors.device)
    place[row, column] = place[column, row] = torch.arange(length, device=vectors.device)
    return (vectors * factor).index_select(-1, place.flatten()).view(*vectors.shape[:-1], dim, dim)
