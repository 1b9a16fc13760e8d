"""Feature transforms from one identity to another (Zhu, Bai and Wei, ECCV 2020, and its supplement)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def spherical_transform(x: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
    """Rotate features in the plane of two class means, so that the first mean is mapped to the second.

    Computes A x of the main paper's Eq. 4. A = I + (n2 n1' - n1 n2') sin(a) + (n1 n1' + n2 n2')(cos(a) - 1) is a
    product of two reflections: the one along mu1 + mu2 maps mu1 to -mu2, the one along mu2 maps -mu2 to mu2. So A x
    costs O(D) and keeps norms up to rounding.

    Args:
        x: (..., D) floating point features of any norm.
        source_mean: (..., D), not zero, broadcast against x; normalized here, as a mean of unit vectors is shorter.
        target_mean: (..., D), as source_mean.

    Returns:
        (..., D), of the same norm as x. Equal means give x. Opposite means span no plane; the result then also has the
        norm of x, and the source is mapped to the target.

    Raises:
        ValueError: if the last dimensions differ.

    Examples:
        >>> spherical_transform(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])).round()
        tensor([0., 2.])
    """
    _check(x, source_mean, target_mean)
    source, target = normalize(source_mean, dim=-1), normalize(target_mean, dim=-1)
    tiny = torch.finfo(x.dtype).tiny
    # The sum and difference of unit vectors are orthogonal; for nearly opposite ones this removes rounding errors.
    total, difference = source + target, source - target
    length = difference.square().sum(dim=-1, keepdim=True).clamp_min(tiny)
    bisector = total - (total * difference).sum(dim=-1, keepdim=True) / length * difference
    bisector = normalize(bisector, dim=-1, eps=tiny**0.5)
    return _reflect(_reflect(x, bisector), target)


def translation_transform(x: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
    """Shift features by the difference of two class means, x - mu1 + mu2: the earlier method that SFT improves on.

    Args:
        x: (..., D) features.
        source_mean: (..., D), broadcast against x, not normalized.
        target_mean: (..., D), as source_mean.

    Returns:
        (..., D). Equal to `spherical_transform` if x - mu1 is orthogonal to both (unit) means (Proposition 3).

    Raises:
        ValueError: if the last dimensions differ.

    Examples:
        >>> translation_transform(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
        tensor([1., 3.])
    """
    _check(x, source_mean, target_mean)
    return x - source_mean + target_mean


def spherical_congruence(matrices: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
    """Rotate a pooled clip: A M A' with the rotation A of `spherical_transform`, in O(D^2).

    For any function of the second moment, f(A D'D A') = A f(D'D) A': rotating all frames before pooling gives the same
    result, but costs another decomposition.

    Args:
        matrices: (..., D, D) symmetric.
        source_mean: (..., D), broadcast against the matrices.
        target_mean: (..., D), as source_mean.

    Returns:
        (..., D, D) symmetric up to rounding, with the eigenvalues of `matrices`.

    Raises:
        ValueError: if the matrices are not square or the last dimensions differ.

    Examples:
        >>> diagonal = torch.diag(torch.tensor([1.0, 4.0]))
        >>> spherical_congruence(diagonal, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).round()
        tensor([[4., 0.],
                [0., 1.]])
    """
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"matrices must be (..., D, D), not {tuple(matrices.shape)}")
    source_mean, target_mean = source_mean[..., None, :], target_mean[..., None, :]
    half = spherical_transform(matrices, source_mean, target_mean)  # the rows are A m_i, so this is M A'
    return spherical_transform(half.mT, source_mean, target_mean)


def _reflect(x: Tensor, unit: Tensor) -> Tensor:
    return x - 2 * (unit * x).sum(dim=-1, keepdim=True) * unit


def _check(x: Tensor, source_mean: Tensor, target_mean: Tensor) -> None:
    if not x.shape[-1:] == source_mean.shape[-1:] == target_mean.shape[-1:] != torch.Size([]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, source_mean, target_mean))
        raise ValueError(f"x and both means must have the same last dimension, not shapes {shapes}")
