"""Binary codes packed into bytes, and their Hamming distance."""

import torch
from torch import Tensor

_BIT_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)  # numpy.packbits puts the first bit highest


def pack_codes(codes: Tensor) -> Tensor:
    """Pack codes into bytes, first bit highest, padded with zero bits: the layout of numpy.packbits.

    Args:
        codes: (N, K) bool.

    Returns:
        (N, ceil(K / 8)) uint8. Padding does not change Hamming distances between packed codes.

    Raises:
        ValueError: if codes is not a bool matrix.

    Examples:
        >>> pack_codes(torch.tensor([[True, False, True]]))
        tensor([[160]], dtype=torch.uint8)
    """
    if codes.ndim != 2 or codes.dtype != torch.bool:
        raise ValueError(f"codes must be bool (N, K), not {codes.dtype} {tuple(codes.shape)}")
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8)).to(torch.uint8)
    values = torch.tensor(_BIT_VALUES, dtype=torch.uint8, device=codes.device)
    return (padded.view(len(codes), padded.shape[1] // 8, 8) * values).sum(dim=-1, dtype=torch.uint8)


def unpack_codes(packed: Tensor, n_bits: int) -> Tensor:
    """Unpack codes from bytes: the inverse of `pack_codes`.

    Args:
        packed: (N, W) uint8.
        n_bits: K, the length of a code, with ceil(K / 8) = W.

    Returns:
        (N, K) bool.

    Raises:
        ValueError: if packed is not a uint8 matrix of width ceil(K / 8).

    Examples:
        >>> unpack_codes(torch.tensor([[160]], dtype=torch.uint8), 3)
        tensor([[ True, False,  True]])
    """
    _check_packed(packed)
    if packed.shape[1] != -(-n_bits // 8):
        raise ValueError(f"codes of {n_bits} bits need {-(-n_bits // 8)} bytes, not {packed.shape[1]}")
    values = torch.tensor(_BIT_VALUES, dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] & values).ne(0).flatten(1)[:, :n_bits]


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """Count differing bits between every code of a and every code of b.

    Args:
        a: (Q, W) uint8, packed.
        b: (N, W) uint8, packed.

    Returns:
        (Q, N) int64 in 0..8 W.

    Raises:
        ValueError: if a or b is not uint8, or their widths differ.

    Examples:
        >>> hamming_distance(torch.tensor([[7]], dtype=torch.uint8), torch.tensor([[0], [6]], dtype=torch.uint8))
        tensor([[3, 1]])
    """
    _check_packed(a)
    _check_packed(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the same width, not {a.shape[1]} and {b.shape[1]} bytes")
    return bit_distance(unpack_codes(a, 8 * a.shape[1]), unpack_codes(b, 8 * b.shape[1]))


def bit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Count differing bits between codes that are not packed.

    Args:
        a: (Q, K) bool.
        b: (N, K) bool.

    Returns:
        (Q, N) int64 in 0..K.
    """
    return multiply_distances(query_factor(a), gallery_factor(b)).to(torch.int64)


def query_factor(codes: Tensor) -> Tensor:
    """Compute the left factor of a matrix of Hamming distances: |a xor b| = |a| + |b| - 2 a.b.

    All entries are small integers, exact up to K = 2048 even in TensorFloat-32.

    Args:
        codes: (Q, K) bool.

    Returns:
        (Q, K + 2) float32; its products with the rows of `gallery_factor` are Hamming distances.
    """
    a = codes.float()
    return torch.cat([-2 * a, a.sum(dim=1, keepdim=True), a.new_ones(len(a), 1)], dim=1)


def gallery_factor(codes: Tensor) -> Tensor:
    """Compute the right factor of a matrix of Hamming distances; see `query_factor`.

    Args:
        codes: (N, K) bool.

    Returns:
        (N, K + 2) float32.
    """
    b = codes.float()
    return torch.cat([b, b.new_ones(len(b), 1), b.sum(dim=1, keepdim=True)], dim=1)


def multiply_distances(queries: Tensor, gallery: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply the two factors, without autocast, which would round the distances.

    Args:
        queries: (Q, K + 2) float32, from `query_factor`.
        gallery: (N, K + 2) float32, from `gallery_factor`.
        out: (Q, N) float32, where to write the result, or None.

    Returns:
        (Q, N) float32 Hamming distances.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return torch.mm(queries, gallery.T, out=out)


def _check_packed(x: Tensor) -> None:
    if x.ndim != 2 or x.dtype != torch.uint8:
        raise ValueError(f"packed codes must be uint8 (N, W), not {x.dtype} {tuple(x.shape)}")
