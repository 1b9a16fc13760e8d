"""log(D'D + eps I) and its gradient exactly as the DHH supplement derives them, for reading and checking.

Qiao, Wang, Shan and Chen, "Deep Heterogeneous Hashing for Face Video Retrieval", IEEE TIP 29, 2020, supplement, section
I, with its letters and equation numbers. The factor of a variation dD follows from the identities S11 to S16 of its
section II for the inner product A : B, the sum of products of entries. The gradient divides by singular values and by
differences of their squares: for static, repeated or centered frames it is not finite or wrong by an arbitrary factor,
depending on rounding.
"""

import math
from typing import Any

import torch
from torch import Tensor

from facereel.functional.spectral import Once

# In 1 / s, the released Caffe code treats a singular value up to this one as zero.
_RELEASED_SMALLEST_SINGULAR_VALUE = 1e-9


class Supplement(torch.autograd.Function):
    """D = U S V' (full SVD, m <= n) and Y = V log(S'S + eps I) V'."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, eps: float, zero_nonfinite: bool) -> Tensor:
        """Return the matrix logarithms (B, n, n) of frames (B, m, n)."""
        bad = ~frames.isfinite().all(dim=-1).all(dim=-1)
        u, s, vt = torch.linalg.svd(frames.masked_fill(bad[:, None, None], 0.0), full_matrices=True)
        s, v = s.masked_fill(bad[:, None], math.nan), vt.mT
        log_s = torch.log(_pad(s.square(), v.shape[-1]) + eps)
        ctx.save_for_backward(frames, u, s, v, log_s)
        ctx.eps, ctx.zero_nonfinite = eps, zero_nonfinite
        return (v * log_s[:, None, :]) @ v.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient (B, m, n)."""
        frames, u, s, v, log_s = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            m = s.shape[-1]
            v1, v2 = v[:, :, :m], v[:, :, m:]
            g = _sym(grad)  # S14: Y is symmetric, so only this part of dL/dY counts

            # Main paper, eq. 11 (our reconstruction), dL = dL/dV : dV + dL/dS : dS.
            dl_dv = 2 * (g @ v) * log_s[:, None, :]
            dl_ds = 2 * s / (s.square() + ctx.eps) * _diagonal(v1.mT @ g @ v1)

            # S6: P, which is infinite for equal singular values.
            p = 1 / (s.square()[:, None, :] - s.square()[:, :, None])
            p = p.masked_fill(torch.eye(m, dtype=torch.bool, device=s.device), 0.0)
            # S_m^-1 of S10, which is infinite for a singular value of zero.
            inverse = 1 / s
            if ctx.zero_nonfinite:  # as the released code does
                p = p.masked_fill(p.isinf(), 0.0)
                inverse = inverse.masked_fill(s <= _RELEASED_SMALLEST_SINGULAR_VALUE, 0.0)

            # S10: dV = (dV1 | dV2) = (H' S_m^-1 | -V1 S_m^-1 H V2). By S16, S12, S11 dL/dV : dV = M : H, M (m x n).
            g1, g2 = dl_dv[:, :, :m], dl_dv[:, :, m:]
            big_m = inverse[:, :, None] * (g1.mT - v1.mT @ g2 @ v2.mT)
            # S8: H = U'dD - U'dU S V' - dS V'. Its first term, U'dD:
            from_dd = u @ big_m
            # S3: dS = (U'dD V)_diag, in the loss itself and, with the minus of S8, through H (S13).
            from_ds = (u * (dl_ds - _diagonal(big_m @ v1))[:, None, :]) @ v1.mT
            # S7: dU = 2 U (P o (U'dD V S')_sym), with the minus of S8 (S15, S14).
            through_p = _sym(p * (big_m @ v1 * s[:, None, :]))
            from_du = -2 * u @ through_p @ (s[:, :, None] * v1.mT)
        return Once.apply(from_dd + from_ds + from_du, frames), None, None


def _sym(x: Tensor) -> Tensor:
    return 0.5 * (x + x.mT)


def _diagonal(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1)


def _pad(x: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, length - x.shape[-1]))
