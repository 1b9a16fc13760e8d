"""Second-order poolings: matrix functions of a clip's second moment, as in the DHH paper and its comparisons."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from facereel.errors import UserError
from facereel.functional import (
    half_unvectorize,
    half_vectorize,
    log_covariance,
    spherical_congruence,
    spherical_transform,
    sqrt_covariance,
)
from facereel.functional.log_covariance import checked_frames, unit
from facereel.models.pooling.first_order import AttentionPooling, MeanPooling, check_length

# The function of a clip, and the same function of a scalar.
FUNCTIONS = {"log": (log_covariance, math.log), "sqrt": (sqrt_covariance, math.sqrt)}


class _MatrixPooling(nn.Module):
    """f of a clip's second moment, a symmetric size x size matrix, optionally minus f(eps) I, flattened."""

    def __init__(
        self, size: int, function: str, eps: float, subtract_floor: bool, half_vectorized: bool, **options: Any
    ) -> None:
        super().__init__()
        check_length(options["length"])
        if not eps > 0:
            raise UserError(f"eps={eps}: must be > 0")
        if function not in FUNCTIONS:
            raise UserError(f"function={function}: must be one of {', '.join(FUNCTIONS)}")
        self.pool, of_number = FUNCTIONS[function]
        self.options = {"eps": eps, **options}
        # With a length, the pooling function already subtracts f(eps) I.
        self.floor = of_number(eps) if subtract_floor and options["length"] is None else 0.0
        self.size = size
        self.half_vectorized = half_vectorized
        self.out_dim = size * (size + 1) // 2 if half_vectorized else size * size

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, size), mask (B, T) bool with True for a real frame -> (B, out_dim)."""
        matrices = self.pool(frames, mask, **self.options)
        if self.floor:
            matrices = matrices - self.floor * torch.eye(self.size, dtype=matrices.dtype, device=matrices.device)
        return self._flatten(matrices)

    def rotate(self, pooled: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
        """Move pooled clips (B, out_dim) from one mean (B, D) to another (B, D); see `spherical_congruence`."""
        matrices = half_unvectorize(pooled) if self.half_vectorized else pooled.view(-1, self.size, self.size)
        extra = (0, self.size - source_mean.shape[-1])  # appended features do not move
        return self._flatten(spherical_congruence(matrices, pad(source_mean, extra), pad(target_mean, extra)))

    def _flatten(self, matrices: Tensor) -> Tensor:
        return half_vectorize(matrices) if self.half_vectorized else matrices.flatten(1)


class LogCovariancePooling(_MatrixPooling):
    """The flattened matrix logarithm of a clip's covariance: see `facereel.functional.log_covariance`.

    Args:
        dim: length of a frame's feature.
        eps: added to the diagonal before the logarithm, > 0; 0.001 in the released code.
        center: subtract the clip's mean. The released code does not.
        normalize: divide by the number of frames. The released code does not.
        unit_frames: scale each frame to length 1 first, so that one eps fits every encoder. Our addition.
        length: subtract log(eps) I and scale the result to this length, > 0, so that one learning rate fits every eps,
            pooling and encoder; None does neither. Our addition.
        method: method of computation; "auto" is fast and exact.
        nonfinite: handling of infinite factors, for method "supplement" only.
        subtract_floor: subtract log(eps) I, which all clips share, also without a `length`. The bias of the hash layer
            absorbs the difference, but vectors, and therefore suitable learning rates, become several times smaller.
            Our addition.
        half_vectorized: keep only the upper triangle, multiplied by sqrt(2) off the diagonal: the same inner products
            with a hash layer of half the size. Our addition.

    Raises:
        UserError: if eps or length is not > 0.
    """

    def __init__(  # noqa: PLR0913 (each is a key of the configuration)
        self,
        dim: int,
        eps: float = 1e-3,
        center: bool = False,
        normalize: bool = False,
        unit_frames: bool = False,
        length: float | None = None,
        method: str = "auto",
        nonfinite: str = "keep",
        subtract_floor: bool = False,
        half_vectorized: bool = False,
    ) -> None:
        chosen = {"center": center, "normalize": normalize, "unit_frames": unit_frames, "length": length}
        super().__init__(dim, "log", eps, subtract_floor, half_vectorized, **chosen, method=method, nonfinite=nonfinite)


class SqrtCovariancePooling(_MatrixPooling):
    """The flattened matrix square root of a clip's covariance: see `facereel.functional.sqrt_covariance`.

    Args:
        dim: length of a frame's feature.
        eps: added to the diagonal before the root, > 0.
        center: subtract the clip's mean.
        normalize: divide by the number of frames.
        unit_frames: scale each frame to length 1 first.
        length: subtract sqrt(eps) I and scale the result to this length, > 0; None does neither.
        subtract_floor: subtract sqrt(eps) I, which all clips share, also without a `length`.
        half_vectorized: as for `LogCovariancePooling`.

    Raises:
        UserError: if eps or length is not > 0.
    """

    def __init__(  # noqa: PLR0913 (each is a key of the configuration)
        self,
        dim: int,
        eps: float = 1e-3,
        center: bool = False,
        normalize: bool = False,
        unit_frames: bool = False,
        length: float | None = None,
        subtract_floor: bool = False,
        half_vectorized: bool = False,
    ) -> None:
        chosen = {"center": center, "normalize": normalize, "unit_frames": unit_frames, "length": length}
        super().__init__(dim, "sqrt", eps, subtract_floor, half_vectorized, **chosen)


class GaussianPooling(_MatrixPooling):
    """The Gaussian of a clip: f(P + eps I) with P = [[S + mm', m], [m', 1]] of its mean m and covariance S.

    The embedding of Wang, Li and Zhang, "G2DeNet", CVPR 2017, reference 2 of the DHH supplement. P is the mean of y y'
    over frames y = (x, 1), so the covariance layer computes it with one more feature.

    Args:
        dim: length of a frame's feature.
        function: "sqrt", as in G2DeNet, or "log", as in DHH.
        eps: added to the diagonal of P, > 0.
        constant: value appended to a frame instead of 1; a larger one gives the mean more weight. Our addition.
        unit_frames: scale each frame to length 1 before the constant is appended.
        length: subtract f(eps) I and scale the result to this length, > 0; None does neither.
        subtract_floor: subtract f(eps) I, also without a `length`; a clip without a real frame then gives zeros.
        half_vectorized: as for `LogCovariancePooling`.

    Raises:
        UserError: if the function is unknown, or eps or length is not > 0.
    """

    def __init__(  # noqa: PLR0913 (each is a key of the configuration)
        self,
        dim: int,
        function: str = "sqrt",
        eps: float = 1e-3,
        constant: float = 1.0,
        unit_frames: bool = False,
        length: float | None = None,
        subtract_floor: bool = False,
        half_vectorized: bool = False,
    ) -> None:
        super().__init__(dim + 1, function, eps, subtract_floor, half_vectorized, normalize=True, length=length)
        self.constant = constant
        self.unit_frames = unit_frames

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) bool with True for a real frame -> (B, out_dim)."""
        frames = unit(checked_frames(frames, mask)) if self.unit_frames else frames
        return super().forward(pad(frames, (0, 1), value=self.constant), mask)


class MeanLogCovariancePooling(LogCovariancePooling):
    """The mean over real frames and the log-covariance in one vector.

    Args:
        dim: length of a frame's feature.
        mean_scale: factor of the mean. With the option `length` the mean also has that length, before this factor.
        **options: options of `LogCovariancePooling`; `unit_frames` also applies to the mean.
    """

    def __init__(self, dim: int, mean_scale: float = 1.0, **options: Any) -> None:
        super().__init__(dim, **options)
        self.mean_scale = mean_scale
        self.dim = dim
        self.out_dim += dim
        self.mean = MeanPooling(dim, self.options["unit_frames"], self.options["length"])

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B, T) bool with True for a real frame -> (B, out_dim), the mean first."""
        return torch.cat([self.mean_scale * self.mean(frames, mask), super().forward(frames, mask)], dim=1)

    def rotate(self, pooled: Tensor, source_mean: Tensor, target_mean: Tensor) -> Tensor:
        """Move pooled clips (B, out_dim) from one mean (B, D) to another (B, D)."""
        mean, flat = pooled[:, : self.dim], pooled[:, self.dim :]
        moved = super().rotate(flat, source_mean, target_mean)
        return torch.cat([spherical_transform(mean, source_mean, target_mean), moved], dim=1)


class AttentionLogCovariancePooling(MeanLogCovariancePooling):
    """A weighted mean over real frames, with learned weights, and the log-covariance in one vector.

    Args:
        dim: length of a frame's feature.
        mean_scale: factor of the mean; see `MeanLogCovariancePooling`.
        **options: options of `LogCovariancePooling`; `unit_frames` also applies to the mean.
    """

    # The weights depend on the frames, so a pooled clip cannot be moved.
    rotate = None  # type: ignore[assignment]

    def __init__(self, dim: int, mean_scale: float = 1.0, **options: Any) -> None:
        super().__init__(dim, mean_scale, **options)
        self.mean = AttentionPooling(dim, self.options["unit_frames"], self.options["length"])  # type: ignore[assignment]
