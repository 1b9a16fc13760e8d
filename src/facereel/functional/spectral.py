"""A scalar function of a clip's regularized second moment, f(D'D + eps I), and its exact gradient.

Let t = x / eps for an eigenvalue x of D'D, and phi(t) = (f(x) - f(0)) / scale, so that phi(0) = 0. The map is then
f(0) I + scale phi(D'D / eps). A function that is zero at 0 needs only the nonzero eigenvalues, which D'D (n x n) shares
with DD' (m x m, m frames): with h(t) = phi(t) / t the map is also f(0) I + (scale / eps) D' h(DD' / eps) D.

Both backward passes use the theorem of Daleckii and Krein: in the eigenbasis, the derivative of a matrix function is a
Hadamard product with the divided differences of the scalar function. The differences are written so that equal
eigenvalues need no threshold. docs/explanation/mathematics.md has the proofs.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor


class SpectralFunction(Protocol):
    """Interface of f, in terms of phi and h.

    `t` is (..., N), >= 0. A divided difference is (..., N, N), with the derivative on its diagonal.
    """

    @staticmethod
    def floor(eps: float) -> float:
        """Return f(0), the value of f in directions orthogonal to all frames."""

    @staticmethod
    def scale(eps: float) -> float:
        """Return the factor of phi."""

    @staticmethod
    def phi(t: Tensor) -> Tensor:
        """Return (f(eps t) - f(0)) / scale, (..., N)."""

    @staticmethod
    def phi_difference(t: Tensor) -> Tensor:
        """Return (phi(s) - phi(t)) / (s - t) for all pairs, (..., N, N)."""

    @staticmethod
    def h(t: Tensor) -> Tensor:
        """Return phi(t) / t, (..., N)."""

    @staticmethod
    def h_difference(t: Tensor) -> Tensor:
        """Return (h(s) - h(t)) / (s - t) for all pairs, (..., N, N)."""


class Log:
    """The logarithm: f(x) = log(x + eps), phi(t) = log1p(t)."""

    @staticmethod
    def floor(eps: float) -> float:
        """Return log(eps)."""
        return math.log(eps)

    @staticmethod
    def scale(eps: float) -> float:
        """Return 1."""
        return 1.0

    @staticmethod
    def phi(t: Tensor) -> Tensor:
        """Return log(1 + t)."""
        return t.log1p()

    @staticmethod
    def phi_difference(t: Tensor) -> Tensor:
        """Return h(u) / (1 + t), t the smaller of both and u = (s - t) / (1 + t): log1p(s) - log1p(t) = log1p(u)."""
        s, t = t[..., :, None], t[..., None, :]
        base = torch.minimum(s, t).add_(1)
        u = (s - t).abs_().div_(base).clamp_min_(torch.finfo(t.dtype).tiny)
        return u.log1p().div_(u).div_(base)

    @staticmethod
    def h(t: Tensor) -> Tensor:
        """Return log(1 + t) / t. The smallest normal number replaces 0 and gives the limit 1."""
        t = t.clamp_min(torch.finfo(t.dtype).tiny)
        return t.log1p() / t

    @staticmethod
    def h_difference(t: Tensor) -> Tensor:
        """Return (phi[s, t] - h(t)) / s, s the larger of both; for s < 1/100, where this cancels, an integral.

        h(t) is the integral of 1 / (1 + z t) over z in 0..1, so h[s, t] is that of -z / ((1 + z s)(1 + z t)). The
        Gauss-Legendre rule turns it into a sum of outer products. At s = 1/100 both forms are exact to about 1e-13.
        """
        h = Log.h(t)
        larger = torch.maximum(t[..., :, None], t[..., None, :])
        h_of_smaller = torch.maximum(h[..., :, None], h[..., None, :])
        direct = Log.phi_difference(t).sub_(h_of_smaller).div_(larger)
        nodes, weights = (torch.tensor(x, dtype=t.dtype, device=t.device) for x in _GAUSS_LEGENDRE)
        factors = 1 / (1 + t[..., None] * nodes)
        integral = (factors * (-weights * nodes)) @ factors.mT
        return torch.where(larger < 1e-2, integral, direct)


class Sqrt:
    """The square root: f(x) = sqrt(x + eps), phi(t) = sqrt(1 + t) - 1. No form of it cancels."""

    @staticmethod
    def floor(eps: float) -> float:
        """Return sqrt(eps)."""
        return math.sqrt(eps)

    @staticmethod
    def scale(eps: float) -> float:
        """Return sqrt(eps)."""
        return math.sqrt(eps)

    @staticmethod
    def phi(t: Tensor) -> Tensor:
        """Return sqrt(1 + t) - 1, without a subtraction."""
        return t * Sqrt.h(t)

    @staticmethod
    def phi_difference(t: Tensor) -> Tensor:
        """Return 1 / (sqrt(1 + s) + sqrt(1 + t))."""
        root = (1 + t).sqrt()
        return 1 / (root[..., :, None] + root[..., None, :])

    @staticmethod
    def h(t: Tensor) -> Tensor:
        """Return 1 / (sqrt(1 + t) + 1)."""
        return 1 / ((1 + t).sqrt() + 1)

    @staticmethod
    def h_difference(t: Tensor) -> Tensor:
        """Return -h(s) h(t) phi[s, t]."""
        h = Sqrt.h(t)
        return -h[..., :, None] * h[..., None, :] * Sqrt.phi_difference(t)


# Five nodes and weights on 0..1: exact for polynomials up to degree 9, so the error for s < 1/100 is below 1e-16.
_GAUSS_LEGENDRE = (
    (0.046910077030668, 0.230765344947158, 0.5, 0.769234655052842, 0.953089922969332),
    (0.118463442528095, 0.239314335249683, 0.284444444444444, 0.239314335249683, 0.118463442528095),
)


# The largest matrix to decompose in one thread, see `_eigh`.
_LARGEST_IN_ONE_THREAD = 128


def wide(x: Tensor) -> Tensor:
    """Return x in float64: in float32 the error of the largest eigenvalue reaches eps. (MPS has no float64.)"""
    return x if x.device.type == "mps" else x.double()


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of (B, n, n) symmetric matrices, for small ones on a CPU in one thread.

    LAPACK splits each small matrix into many parallel regions, which take longer than the work itself. With other work
    running, a region waits for a thread that is not running, and the layer took 50 times as long as with one thread.
    """
    is_small = matrices.device.type == "cpu" and matrices.shape[-1] <= _LARGEST_IN_ONE_THREAD
    if torch.compiler.is_compiling() or not is_small:
        return tuple(torch.linalg.eigh(matrices))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return tuple(torch.linalg.eigh(matrices))
    finally:
        torch.set_num_threads(n_threads)


def _eigh_or_nan(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, clamped to >= 0, and eigenvectors; the eigenvalues of a matrix that is not finite are NaN.

    No entry of a Gram matrix exceeds the largest on its diagonal, so only the diagonal is checked. Overwrites `gram`.
    """
    bad = ~gram.diagonal(dim1=-2, dim2=-1).isfinite().all(dim=-1)
    values, vectors = _eigh(gram.masked_fill_(bad[:, None, None], 0.0))
    return values.clamp_min(0.0).masked_fill(bad[:, None], math.nan), vectors


def _of_features(frames: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of D'D, in float32 if all condition numbers are below 1,000.

    float32 takes half the time and is accurate to about 1e-5. torch.compile cannot branch on data and uses float64.
    """
    if not torch.compiler.is_compiling():
        values, vectors = _eigh_or_nan(frames.mT @ frames)
        if values.dtype == torch.float64 or bool((values[:, -1] + eps < 1000 * (values[:, 0] + eps)).all()):
            return values, vectors
    wide_frames = wide(frames)
    return _eigh_or_nan(wide_frames.mT @ wide_frames)


class Once(torch.autograd.Function):
    """Pass a gradient through, and raise an error when it is differentiated.

    With `torch.autograd.function.once_differentiable` a second derivative by the frames may silently be zero.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, frames: Tensor) -> Tensor:
        """Return the gradient (B, m, n) of `frames`."""
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        """Reject a second derivative.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("covariance pooling has no second derivative")


class GramSide(torch.autograd.Function):
    """f(D'D + eps I) from the m x m Gram matrix DD': no n x n decomposition, no division by a singular value."""

    @staticmethod
    def forward(  # noqa: PLR0913 (autograd passes arguments by position)
        ctx: Any,
        frames: Tensor,
        function: type[SpectralFunction],
        eps: float,
        length: float | None,
        frame_length: Tensor | float | None,
        dtype: torch.dtype,
        is_well_conditioned: bool = False,
    ) -> Tensor:
        """Return the pooled clips (B, n, n) in `dtype` of frames (B, m, n), which may be in a wider type.

        See `_gain` for `length`. If `frame_length` is given, a number or (B, 1, 1), frames are first scaled to it, with
        norms taken from the Gram matrix. If all condition numbers are known to be below 1,000, `is_well_conditioned`
        saves the conversion to float64.
        """
        wide_frames = frames if is_well_conditioned else wide(frames)
        gram = wide_frames @ wide_frames.mT
        norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
        frame_scale = torch.ones_like(norms)
        if frame_length is not None:
            frame_scale = (frame_length / _nonzero(norms)).to(norms.dtype)
            gram = gram * frame_scale * frame_scale.mT
        values, vectors = _eigh_or_nan(gram)
        t = values / eps
        gain = _gain(function.scale(eps) * function.phi(t), length)
        # B'B with B = (gain scale h / eps)^(1/2) Q'D; computing D' h D directly would cancel.
        factor = (gain * (function.scale(eps) / eps) * function.h(t)).sqrt()
        root = ((frame_scale * vectors * factor[..., None, :]).mT @ wide_frames).to(dtype)
        result = root.mT @ root
        if length is None:
            result.diagonal(dim1=-2, dim2=-1).add_(function.floor(eps))
        ctx.save_for_backward(frames, t, vectors.to(dtype), root, gain, frame_scale.to(dtype))
        ctx.function, ctx.eps, ctx.length, ctx.frame_length = function, eps, length, frame_length
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        """Return the gradient (B, m, n). The terms of the scaling are m x m and need no pass over the frames."""
        frames, t, vectors, root, gain, frame_scale = ctx.saved_tensors
        scale = ctx.function.scale(ctx.eps)
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            pulled = torch.baddbmm(root @ grad, root, grad.mT)  # root (G + G'), without an n x n temporary
            h = ctx.function.h(t)
            products = pulled @ root.mT
            # The result's eigenvalues, which are the diagonal of root root'.
            result_values = (gain * scale * ctx.function.phi(t)).to(root.dtype)
            ratio = ctx.function.h_difference(t).div_(h.sqrt()[..., :, None]).div_(h[..., None, :]).div_(scale)
            vectors_scaled = vectors * math.sqrt(scale / ctx.eps)
            of_pulled = vectors_scaled * (gain * h).sqrt()[..., None, :].to(root.dtype)
            if ctx.length is None:
                of_root = vectors_scaled @ (ratio.to(root.dtype) * products)
            else:
                along = products.diagonal(dim1=-2, dim2=-1).sum(dim=-1, keepdim=True) / ctx.length**2
                along_values = along * result_values
                corrected = products - torch.diag_embed(along_values * result_values)
                # `pulled` and `root` each contain a factor sqrt(gain); the gradient contains one factor gain.
                inner = ratio.to(root.dtype) * corrected / _nonzero(gain.sqrt()).to(root.dtype)[..., None]
                of_root = vectors_scaled @ inner - of_pulled * along_values[..., None, :]
            if ctx.frame_length is not None:
                # The scaled frames are `expansion` @ root. Scaling removes the part of a gradient along its frame.
                factor = (gain * (scale / ctx.eps) * h).sqrt().to(root.dtype)
                expansion = vectors / _nonzero(factor)[..., None, :]
                dots = ((of_pulled @ products + of_root * result_values[..., None, :]) * expansion).sum(
                    -1, keepdim=True
                )
                of_root = (of_root - dots / ctx.frame_length**2 * expansion) * frame_scale
                of_pulled = of_pulled * frame_scale
            result = torch.baddbmm(of_pulled @ pulled, of_root.to(root.dtype), root).to(frames.dtype)
        return Once.apply(result, frames), None, None, None, None, None, None


class FeatureSide(torch.autograd.Function):
    """f(D'D + eps I) from the n x n matrix D'D itself, for more frames than features."""

    @staticmethod
    def forward(
        ctx: Any,
        frames: Tensor,
        function: type[SpectralFunction],
        eps: float,
        length: float | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the pooled clips (B, n, n) in `dtype` of frames (B, m, n), which may be in a wider type."""
        values, vectors = _of_features(frames, eps)
        t = values / eps
        pooled = function.scale(eps) * function.phi(t)
        gain = _gain(pooled, length)
        root = (vectors * (gain * pooled).sqrt()[..., None, :]).to(dtype)
        result = root @ root.mT
        if length is None:
            result.diagonal(dim1=-2, dim2=-1).add_(function.floor(eps))
        ctx.save_for_backward(frames, t, vectors, gain)
        ctx.function, ctx.eps, ctx.length = function, eps, length
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient (B, m, n)."""
        frames, t, vectors, gain = ctx.saved_tensors
        scale = ctx.function.scale(ctx.eps)
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            inner = vectors.mT @ (grad + grad.mT).to(t.dtype) @ vectors
            if ctx.length is not None:
                values = gain * scale * ctx.function.phi(t)
                diagonal = inner.diagonal(dim1=-2, dim2=-1)
                along = (diagonal * values).sum(dim=-1, keepdim=True) / ctx.length**2
                diagonal.sub_(along * values)
            inner.mul_(ctx.function.phi_difference(t)).mul_(gain[..., None] * (scale / ctx.eps))
            result = (frames.to(t.dtype) @ (vectors @ inner @ vectors.mT)).to(frames.dtype)
        return Once.apply(result, frames), None, None, None, None


def _gain(values: Tensor, length: float | None) -> Tensor:
    """Return the factor (B, 1) that scales matrices of eigenvalues (B, N) to a Frobenius norm of `length`; 1 for None.

    With Z = gain P and G the gradient of Z, the gradient of P is gain (G - <G, Z> Z / length^2). A matrix of zeros
    cannot be scaled to a length: its factor and its gradient are 0.
    """
    if length is None:
        return values.new_ones(len(values), 1)
    return scale_to_length(torch.linalg.vector_norm(values, dim=-1, keepdim=True), length)


def scale_to_length(norm: Tensor, length: float) -> Tensor:
    """Return the factor that scales a norm to `length`; 0 for a norm of 0."""
    return torch.where(norm == 0, 0.0, length / _nonzero(norm))


def _nonzero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1.0)
