"""Binary codes packed into bytes, and their Hamming distance."""

import torch
from torch import Tensor

_BIT_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)  # numpy.packbits puts the first bit highest


def pack_codes(codes: Tensor) -> Tensor:
    """Pack codes eight bits to the byte, first bit highest, padded with zero bits: the layout of numpy.packbits.

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
    """Undo `pack_codes`.

    Args:
        packed: (N, W) uint8.
        n_bits: K, with ceil(K / 8) = W.

    Returns:
        (N, K) bool.

    Raises:
        ValueError: if packed is not a uint8 matrix of that width.

    Examples:
        >>> unpack_codes(torch.tensor([[160]], dtype=torch.uint8), 3)
        tensor([[ True, False,  True]])
    """
    _check_packed(packed)
    if packed.shape[1] != -(-n_bits // 8):
        raise ValueError(f"{n_bits} bits need {-(-n_bits // 8)} bytes, not {packed.shape[1]}")
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
        raise ValueError(f"a and b must be packed to one width, not {a.shape[1]} and {b.shape[1]} bytes")
    return bit_distance(unpack_codes(a, 8 * a.shape[1]), unpack_codes(b, 8 * b.shape[1]))


def bit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Count differing bits between bool codes (Q, K) and (N, K) -> (Q, N) int64."""
    return multiply_distances(query_factor(a), gallery_factor(b)).to(torch.int64)


def query_factor(codes: Tensor) -> Tensor:
    """(Q, K) bool -> (Q, K + 2) float32, whose products with rows of `gallery_factor` are Hamming distances.

    |a xor b| = |a| + |b| - 2 a.b. All entries are small integers, exact up to K = 2048 even in TensorFloat-32.
    """
    a = codes.float()
    return torch.cat([-2 * a, a.sum(dim=1, keepdim=True), a.new_ones(len(a), 1)], dim=1)


def gallery_factor(codes: Tensor) -> Tensor:
    """(N, K) bool -> (N, K + 2) float32; see `query_factor`."""
    b = codes.float()
    return torch.cat([b, b.new_ones(len(b), 1), b.sum(dim=1, keepdim=True)], dim=1)


def multiply_distances(queries: Tensor, gallery: Tensor, out: Tensor | None = None) -> Tensor:
    """(Q, N) float32 distances from the two factors, without autocast, which would round them."""
    with torch.autocast(queries.device.type, enabled=False):
        return torch.mm(queries, gallery.T, out=out)


def _check_packed(x: Tensor) -> None:
    if x.ndim != 2 or x.dtype != torch.uint8:
        raise ValueError(f"packed codes must be uint8 (N, W), not {x.dtype} {tuple(x.shape)}")
