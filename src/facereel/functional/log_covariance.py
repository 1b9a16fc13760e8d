"""Pooling a clip by a function of its covariance: the matrix logarithm, or the square root.

Let D be the m x n matrix of a clip (m frames, n features). The matrix logarithm is Y = log(D'D + eps I): Qiao et al.,
"Deep Heterogeneous Hashing for Face Video Retrieval", IEEE TIP 29, 2020, and its supplement. There are four ways to
compute it, which agree where all of them are defined:

- ``gram`` (`spectral.GramSide`): the m x m side; static, repeated and centered clips have exact gradients.
- ``eigh`` (`spectral.FeatureSide`): the n x n side, for clips with more frames than features.
- ``polynomial`` (`polynomial.log_of_frames`): matrix products only, for normalized moments of unit frames.
- ``supplement`` (`supplement.Supplement`): the gradient as the supplement derives it, for reading and checking.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facereel.functional.polynomial import SMALLEST_EPS, log_of_frames
from facereel.functional.spectral import FeatureSide, GramSide, Log, SpectralFunction, Sqrt, scale_to_length, wide
from facereel.functional.supplement import Supplement

METHODS = ("auto", "gram", "eigh", "polynomial", "supplement")


def log_covariance(  # noqa: PLR0913 (part of the public contract)
    frames: Tensor,
    mask: Tensor | None = None,
    *,
    eps: float = 1e-3,
    center: bool = False,
    normalize: bool = False,
    unit_frames: bool = False,
    length: float | None = None,
    method: str = "auto",
    nonfinite: str = "keep",
) -> Tensor:
    """Pool each clip into log(D'D + eps I), the matrix logarithm of its regularized second moment (DHH, Sec. III).

    Works under autocast (in float32 there) and under torch.compile.

    Args:
        frames: (B, T, D) floating point, the frame features of B clips. Half precision is computed in float32.
        mask: (B, T) bool, True for a real frame; None if all are real. The content of padded frames is ignored.
        eps: added to the diagonal, > 0; 0.001 in the released code.
        center: subtract the mean over real frames first. The released code does not.
        normalize: divide D'D by the number of real frames, before eps is added. The released code does not.
        unit_frames: scale each frame to length 1 first. With `normalize`, the eigenvalues of D'D then sum to 1 for any
            encoder, so eps is relative to their sum (and eps times D to their mean). Our addition.
        length: subtract log(eps) I, then scale the matrix to this Frobenius norm, > 0; None does neither. The scale of
            the result then depends neither on eps nor on the encoder. Our addition.
        method: "gram", "eigh", "polynomial" (needs `normalize`, `unit_frames` and eps >= 0.01; slower than the others
            on a CPU), "supplement" (needs T <= D, no `length`, and no padded frame for a gradient), or "auto": gram if
            T <= D, else eigh.
        nonfinite: for "supplement" only. "keep" keeps the result of a division by zero; "zero" sets infinite factors to
            zero, as the released code does, which drops a part of the gradient. Neither detects a zero that was rounded
            to 1e-17.

    Returns:
        (B, D, D) symmetric, float32 (float64 for float64 frames). A clip without a real frame gives log(eps) I, or
        zeros with a `length`, and a zero gradient. A clip with a NaN or infinite feature gives NaN and a NaN gradient;
        it changes other clips of the batch by rounding errors only.

    Raises:
        ValueError: if a shape is wrong, eps or length is not > 0, the method is unknown, or what it needs is missing.
        RuntimeError: in the backward pass, if a second derivative is requested (except with "polynomial").

    Examples:
        >>> log_covariance(torch.zeros(1, 4, 2), eps=1.0)
        tensor([[[0., 0.],
                 [0., 0.]]])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if nonfinite not in ("keep", "zero"):
        raise ValueError(f"nonfinite must be 'keep' or 'zero', not {nonfinite!r}")
    preparation = _Preparation(center, normalize, unit_frames)
    if method == "polynomial":
        return _by_polynomial(frames, mask, eps, length, preparation)
    if method != "supplement":
        return _pool(frames, mask, Log, eps, length, method, preparation)
    frames = _checked(frames, mask, eps, length)
    if length is not None:
        raise ValueError(f"method 'supplement' does not support length={length}; use length=None or another method")
    if frames.shape[1] > frames.shape[2]:
        raise ValueError(
            f"method 'supplement' needs at most as many frames as features, not {frames.shape[1]} frames of "
            f"{frames.shape[2]} features; use method 'eigh'"
        )
    with torch.autocast(frames.device.type, enabled=False):
        prepared, _ = preparation(frames, mask, gram=False)
        return Supplement.apply(prepared.to(frames.dtype), eps, nonfinite == "zero")


def sqrt_covariance(
    frames: Tensor,
    mask: Tensor | None = None,
    *,
    eps: float = 1e-3,
    center: bool = False,
    normalize: bool = False,
    unit_frames: bool = False,
    length: float | None = None,
) -> Tensor:
    """Pool each clip into the matrix square root of D'D + eps I, which dampens large values less than the logarithm.

    Args:
        frames: (B, T, D) as for `log_covariance`.
        mask: (B, T) bool, True for a real frame; None if all are real.
        eps: added to the diagonal, > 0: the root has no derivative at 0.
        center: subtract the mean over real frames first.
        normalize: divide D'D by the number of real frames, before eps is added.
        unit_frames: scale each frame to length 1 first.
        length: subtract sqrt(eps) I, then scale the matrix to this Frobenius norm, > 0; None does neither.

    Returns:
        (B, D, D) symmetric, float32 (float64 for float64 frames). A clip without a real frame gives sqrt(eps) I, or
        zeros with a `length`; a clip with a NaN or infinite feature gives NaN.

    Raises:
        ValueError: if a shape is wrong, or eps or length is not > 0.
        RuntimeError: in the backward pass, if a second derivative is requested.

    Examples:
        >>> sqrt_covariance(torch.tensor([[[3.0, 0.0]]]), eps=16.0)
        tensor([[[5., 0.],
                 [0., 4.]]])
    """
    preparation = _Preparation(center, normalize, unit_frames)
    return _pool(frames, mask, Sqrt, eps, length, "auto", preparation)


def _pool(
    frames: Tensor,
    mask: Tensor | None,
    function: type[SpectralFunction],
    eps: float,
    length: float | None,
    method: str,
    preparation: "_Preparation",
) -> Tensor:
    frames = _checked(frames, mask, eps, length)
    gram = method == "gram" or (method == "auto" and frames.shape[1] <= frames.shape[2])
    with torch.autocast(frames.device.type, enabled=False):
        prepared, frame_length = preparation(frames, mask, gram)
        if gram:
            # The eigenvalues of D'D sum to the number of frames, or to 1 if they are normalized.
            largest = 1 if preparation.normalize else frames.shape[1]
            is_well_conditioned = frame_length is not None and largest < 999 * eps
            return GramSide.apply(prepared, function, eps, length, frame_length, frames.dtype, is_well_conditioned)
        return FeatureSide.apply(prepared, function, eps, length, frames.dtype)


def _by_polynomial(
    frames: Tensor, mask: Tensor | None, eps: float, length: float | None, preparation: "_Preparation"
) -> Tensor:
    frames = _checked(frames, mask, eps, length)
    if not (preparation.normalize and preparation.unit_frames and eps >= SMALLEST_EPS):
        raise ValueError(
            f"method 'polynomial' needs normalize=True, unit_frames=True and eps of at least {SMALLEST_EPS}, not "
            f"{preparation.normalize}, {preparation.unit_frames} and {eps}; use method 'auto'"
        )
    with torch.autocast(frames.device.type, enabled=False):
        prepared, _ = preparation(frames, mask, gram=False)
        pooled = log_of_frames(prepared.to(frames.dtype), eps)
        if length is None:
            return pooled + math.log(eps) * torch.eye(frames.shape[2], dtype=frames.dtype, device=frames.device)
        return scale_to_length(torch.linalg.matrix_norm(pooled, keepdim=True), length) * pooled


def checked_frames(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Check the shapes and types of frames and mask, and convert half-precision frames to float32.

    Args:
        frames: (B, T, D) floating point.
        mask: (B, T) bool, or None.

    Returns:
        (B, T, D), float32 or float64.

    Raises:
        ValueError: if a shape or type is wrong.
    """
    if frames.ndim != 3 or frames.shape[2] == 0 or not frames.is_floating_point():
        raise ValueError(f"frames must be floating point (B, T, D), not {frames.dtype} {tuple(frames.shape)}")
    if mask is not None and (mask.shape != frames.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {tuple(frames.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")
    return frames.float() if frames.dtype in (torch.float16, torch.bfloat16) else frames


def unit(x: Tensor) -> Tensor:
    """Return x with its last dimension scaled to length 1; zeros stay zeros."""
    result: Tensor = UnitFrames.apply(x, 1.0)
    return result


class UnitFrames(torch.autograd.Function):
    """Scale the last dimension to a length, in fewer passes over memory than separate PyTorch operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: Tensor | float) -> Tensor:
        """Return x (..., D), scaled to `length`, a number or (..., 1); zeros stay zeros."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        factor = (length / norm.masked_fill(norm == 0, 1.0)).to(x.dtype)
        result = x * factor
        ctx.save_for_backward(result, factor)
        ctx.length = length
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient: factor (G - <G, u> u) for the unit vector u."""
        result, factor = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, result)[..., None] / ctx.length**2
        return torch.addcmul(grad, along.to(grad.dtype), result, value=-1.0) * factor, None


def _checked(frames: Tensor, mask: Tensor | None, eps: float, length: float | None) -> Tensor:
    if not eps > 0:
        raise ValueError(f"eps must be > 0, not {eps}")
    if length is not None and not length > 0:
        raise ValueError(f"length must be > 0, not {length}")
    return checked_frames(frames, mask)


class _Preparation(NamedTuple):
    """Set padded frames to zero, scale each frame, then center and normalize over the real ones."""

    center: bool
    normalize: bool
    unit_frames: bool

    def __call__(self, frames: Tensor, mask: Tensor | None, gram: bool) -> tuple[Tensor, Tensor | float | None]:
        """Return the prepared frames (B, T, D), in float64 where float32 would lose the difference of near-copies.

        If `gram`, also returns the length to which `GramSide` must scale frames: a number or (B, 1, 1); else None.
        """
        n_real: Tensor | float = max(1, frames.shape[1])
        if mask is not None:
            padded = ~mask[..., None]
            frames = frames.masked_fill(padded, 0.0)
            n_real = wide(mask.sum(dim=1).clamp_min(1)[:, None, None].to(frames.dtype))
        if self.unit_frames and not self.center:
            # Not in float64: eps is relative to frames of length 1, so rounding errors are negligible.
            frame_length = n_real**-0.5 if self.normalize else 1.0
            return (frames, frame_length) if gram else (UnitFrames.apply(frames, frame_length), None)
        frames = unit(wide(frames)) if self.unit_frames else frames
        if self.center:
            frames = wide(frames)
            frames = frames - frames.sum(dim=1, keepdim=True) / n_real
            frames = frames if mask is None else frames.masked_fill(padded, 0.0)
        return (wide(frames) / n_real**0.5 if self.normalize else frames), None
