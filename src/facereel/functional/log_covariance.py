"""The matrix logarithm of a clip's covariance, with gradients derived by hand.

With D the m x n matrix of a clip (m frames, n features) the map is Y = log(D'D + eps I): Qiao et al., "Deep
Heterogeneous Hashing for Face Video Retrieval", IEEE TIP 29, 2020, and its supplement, equations S1 to S16.
Three ways to compute it, which agree where all of them are defined:

- ``gram``: works on the m x m Gram matrix. With g(x) = log1p(x / eps) / x, Y = log(eps) I + D' g(DD') D. No n x n
  decomposition and no division by a singular value, so static, repeated and centred clips have exact gradients.
- ``eigh``: works on the n x n side, for clips with more frames than features.
- ``supplement``: the supplement's own gradient through the full SVD, kept for reading and checking. It divides by
  singular values and by differences of their squares.

Gram and eigh take the Daleckii-Krein form: the derivative of a matrix function in the eigenbasis is a Hadamard product
with the divided differences of the scalar function. Both divided differences are written so that equal eigenvalues
need no threshold (`_log_difference`, `_gram_difference`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

METHODS = ("auto", "gram", "eigh", "supplement")

# The released Caffe code treats a singular value up to this as zero when asked for 1 / s.
_RELEASED_SMALLEST_SINGULAR_VALUE = 1e-9


def log_covariance(
    frames: Tensor,
    mask: Tensor | None = None,
    *,
    eps: float = 1e-3,
    center: bool = False,
    normalize: bool = False,
    method: str = "auto",
    nonfinite: str = "keep",
) -> Tensor:
    """Pool each clip into log(D'D + eps I), the matrix logarithm of its regularised second moment (DHH, Sec. III).

    Args:
        frames: (B, T, D) floating point, the frame features of B clips. Half precision is computed in float32.
        mask: (B, T) bool, True for a real frame; None if all are. What a padded frame holds is ignored.
        eps: added to the diagonal, > 0; 0.001 in the released code.
        center: subtract the mean over real frames first. The released code does not.
        normalize: divide D'D by the number of real frames, before eps is added. The released code does not.
        method: "gram", "eigh", "supplement" (needs T <= D), or "auto": gram if T <= D, else eigh.
        nonfinite: for "supplement" only. "keep" lets a division by zero show; "zero" sets infinite factors to zero
            as the released code did, which is finite but drops a part of the true gradient.

    Returns:
        (B, D, D) symmetric, float32 (float64 for float64 frames). A clip without a real frame gives log(eps) I and a
        zero gradient. A clip with a NaN or an infinite feature gives NaN; other clips of the batch are untouched.

    Raises:
        ValueError: for wrong shapes, eps <= 0, an unknown method, or "supplement" with T > D.
        RuntimeError: when a second derivative is asked for.

    Example:
        >>> log_covariance(torch.zeros(1, 4, 2), eps=1.0)
        tensor([[[0., 0.],
                 [0., 0.]]])
    """
    _check(frames, mask, eps, method, nonfinite)
    with torch.autocast(frames.device.type, enabled=False):
        if frames.dtype in (torch.float16, torch.bfloat16):
            frames = frames.float()
        frames = _prepare(frames, mask, center, normalize)
        if method == "auto":
            method = "gram" if frames.shape[1] <= frames.shape[2] else "eigh"
        if method == "gram":
            return _Gram.apply(frames, eps)
        if method == "eigh":
            return _Eigh.apply(frames, eps)
        return _Supplement.apply(frames, eps, nonfinite == "zero")


def _check(frames: Tensor, mask: Tensor | None, eps: float, method: str, nonfinite: str) -> None:
    if frames.ndim != 3 or not frames.is_floating_point():
        raise ValueError(f"frames must be floating point (B, T, D), not {frames.dtype} {tuple(frames.shape)}")
    if mask is not None and (mask.shape != frames.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {tuple(frames.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, not {eps}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if nonfinite not in ("keep", "zero"):
        raise ValueError(f"nonfinite must be 'keep' or 'zero', not {nonfinite!r}")
    if method == "supplement" and frames.shape[1] > frames.shape[2]:
        raise ValueError(f"method 'supplement' needs at most as many frames as features, not {tuple(frames.shape[1:])}")


def _prepare(frames: Tensor, mask: Tensor | None, center: bool, normalize: bool) -> Tensor:
    """Zero the padded frames, then centre and scale over the real ones, so that the map is log(D'D + eps I)."""
    if mask is None:
        mask = frames.new_ones(frames.shape[:2], dtype=torch.bool)
    padded = ~mask[..., None]
    frames = frames.masked_fill(padded, 0.0)
    if center or normalize:
        n_real = mask.sum(dim=1).clamp_min(1)[:, None, None].to(frames.dtype)
        if center:
            frames = (frames - frames.sum(dim=1, keepdim=True) / n_real).masked_fill(padded, 0.0)
        if normalize:
            frames = frames / n_real.sqrt()
    return frames


def _wide(x: Tensor) -> Tensor:
    """To float64: in float32 the error of the largest eigenvalue reaches eps. (MPS has no float64.)"""
    return x if x.device.type == "mps" else x.double()


def _eigh_or_nan(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, clamped to >= 0, and vectors; NaN eigenvalues where a matrix is not finite (eigh would raise)."""
    bad = ~symmetric.isfinite().all(dim=-1).all(dim=-1)
    values, vectors = torch.linalg.eigh(symmetric.masked_fill(bad[:, None, None], 0.0))
    return values.clamp_min(0.0).masked_fill(bad[:, None], math.nan), vectors


def _log1p_ratio(t: Tensor) -> Tensor:
    """log1p(t) / t for t > -1, with its limit 1 at t = 0; accurate everywhere because log1p is."""
    zero = t == 0
    return torch.where(zero, 1.0, torch.log1p(t) / torch.where(zero, 1.0, t))


def _log_difference(values: Tensor, eps: float) -> Tensor:
    """Divided differences of log(x + eps) between all pairs; on the diagonal the derivative 1 / (x + eps).

    (log(x + eps) - log(y + eps)) / (x - y) = log1p_ratio((x - y) / (y + eps)) / (y + eps), with x the larger.
    """
    x, y = torch.maximum(values[:, :, None], values[:, None, :]), torch.minimum(values[:, :, None], values[:, None, :])
    return _log1p_ratio((x - y) / (y + eps)) / (y + eps)


def _gram_difference(values: Tensor, eps: float) -> Tensor:
    """Divided differences of g(x) = log1p(x / eps) / x between all pairs; on the diagonal the derivative g'(x).

    With l[x, y] the divided difference of log(x + eps), g[x, y] = (l[x, y] - g(y)) / x, with x the larger. Its
    cancellation is about eps / x units in the last place, so for x < eps / 100 the power series of g takes over, where
    both are good to about 1e-13: there is no jump.
    """
    a, b = torch.maximum(values[:, :, None], values[:, None, :]), torch.minimum(values[:, :, None], values[:, None, :])
    a, b = a / eps, b / eps
    small = a < 1e-2
    direct = _log1p_ratio((a - b) / (b + 1)) / (b + 1) - _log1p_ratio(b)
    direct = direct / torch.where(small, 1.0, a)
    # log1p(a) / a = sum of (-a)^k / (k + 1); the divided difference of a^k is the sum of a^i b^(k-1-i) over i < k.
    series, powers = torch.zeros_like(a), torch.ones_like(a)
    sa, sb = torch.where(small, a, 0.0), torch.where(small, b, 0.0)
    b_power = torch.ones_like(a)
    for k in range(1, 9):
        series = series + (-1) ** k / (k + 1) * powers
        b_power = b_power * sb
        powers = powers * sa + b_power
    return torch.where(small, series, direct) / eps**2


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, eps: float) -> Tensor:
        wide = _wide(frames)
        values, vectors = _eigh_or_nan(wide @ wide.mT)
        rotated = vectors.mT @ wide  # Q'D: its rows are orthogonal, of squared length `values`
        g = _log1p_ratio(values / eps) / eps
        # As B'B with B = g^(1/2) Q'D every entry stays moderate; D' g(DD') D formed directly would cancel.
        root = (g.sqrt()[..., None] * rotated).to(frames.dtype)
        result = root.mT @ root
        result.diagonal(dim1=-2, dim2=-1).add_(math.log(eps))
        ctx.save_for_backward(values, vectors, rotated)
        ctx.eps, ctx.dtype = eps, frames.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, vectors, rotated = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            narrow = rotated.to(ctx.dtype)
            # The only products with n^2 terms; 2 sym(G) is split so that no n x n matrix is formed.
            pulled = _wide(narrow @ grad + narrow @ grad.mT)
            g = _log1p_ratio(values / ctx.eps) / ctx.eps
            inner = _gram_difference(values, ctx.eps) * (pulled @ rotated.mT)
            return (vectors @ (g[..., None] * pulled + inner @ rotated)).to(ctx.dtype), None


class _Eigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, eps: float) -> Tensor:
        wide = _wide(frames)
        values, vectors = _eigh_or_nan(wide.mT @ wide)
        ctx.save_for_backward(frames, values, vectors)
        ctx.eps = eps
        return ((vectors * torch.log(values + eps)[:, None, :]) @ vectors.mT).to(frames.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        frames, values, vectors = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            wide_grad = _wide(grad)
            inner = vectors.mT @ (wide_grad + wide_grad.mT) @ vectors * _log_difference(values, ctx.eps)
            return (_wide(frames) @ (vectors @ inner @ vectors.mT)).to(frames.dtype), None


def _sym(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


class _Supplement(torch.autograd.Function):
    """The derivation of the supplement, step by step; letters and equation numbers are its own."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, eps: float, zero: bool) -> Tensor:
        bad = ~frames.isfinite().all(dim=-1).all(dim=-1)
        u, s, vt = torch.linalg.svd(frames.masked_fill(bad[:, None, None], 0.0), full_matrices=True)
        s = s.masked_fill(bad[:, None], math.nan)
        v = vt.mT
        padded = torch.nn.functional.pad(s, (0, v.shape[-1] - s.shape[-1]))  # the n diagonal entries of (S'S)^(1/2)
        ctx.save_for_backward(u, s, v, padded)
        ctx.eps, ctx.zero = eps, zero
        return (v * torch.log(padded.square() + eps)[:, None, :]) @ v.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        u, s, v, padded = ctx.saved_tensors
        m = s.shape[-1]
        g = _sym(grad)
        # Main paper, eq. 11 as reconstructed in the docs: the gradients at V and at S.
        grad_v = 2 * (g @ v) * torch.log(padded.square() + ctx.eps)[:, None, :]
        grad_s = 2 * s / (s.square() + ctx.eps) * (v.mT @ g @ v).diagonal(dim1=-2, dim2=-1)[:, :m]
        # S6: P, and 1 / S_m of S10. Both may divide by zero.
        gap = s.square()[:, None, :] - s.square()[:, :, None]
        p = (1 / gap).masked_fill(torch.eye(m, dtype=torch.bool, device=s.device), 0.0)
        inverse = 1 / s
        if ctx.zero:
            p = p.masked_fill(p.isinf(), 0.0)
            inverse = inverse.masked_fill(s <= _RELEASED_SMALLEST_SINGULAR_VALUE, 0.0)
        # S10, dV = (dV1 | dV2), turned around by S12 and S16: M is what H of S8 is multiplied with.
        v1, v2 = v[:, :, :m], v[:, :, m:]
        grad_v1, grad_v2 = grad_v[:, :, :m], grad_v[:, :, m:]
        mm = inverse[:, :, None] * (grad_v1.mT - v1.mT @ grad_v2 @ v2.mT)
        # S8 holds three terms: dD itself, dS by S3 (with the gradient at S), and dU by S7.
        through_d = u @ mm
        through_s = (u * (grad_s - (mm @ v1).diagonal(dim1=-2, dim2=-1))[:, None, :]) @ v1.mT
        through_u = 2 * u @ _sym(p * (mm @ v1 * s[:, None, :])) @ (s[:, :, None] * v1.mT)
        return through_d + through_s - through_u, None, None
