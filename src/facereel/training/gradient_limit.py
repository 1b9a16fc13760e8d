"""A limit on the size of a gradient: one of 1e33 ruins the weights as surely as an infinite one."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

import torch
from torch import Tensor

from facereel.errors import UserError

# Steps whose median is the usual norm.
WINDOW = 20
# The usual norm is at least this: a loss of triplets that are nearly all far apart has gradients of 1e-5, and the next
# hard example has one of 100, which does no harm.
LEAST_USUAL = 1.0

# The largest number whose square float32 has: Adam's second moment and the clipping of gradients need the square.
LARGEST = 1.8e19


def max_norm(gradients: list[Tensor], default: Tensor) -> Tensor:
    """The largest absolute value in gradients, float32 of shape (); NaN if one is; zero, of default's device, of none.

    The maximum is exact on every processor. Sums of squares overflow near 1e19 in some kernels and not in others.
    """
    if not gradients:
        return torch.zeros_like(default, dtype=torch.float32)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients, math.inf)]).amax()


class GradientLimit:
    """Compare the max norm of each gradient with the usual norm of the steps before it.

    The usual norm is the median of the last 20 steps, and at least 1. The window, that floor and the ratio are our
    choice.

    Args:
        max_ratio: largest norm in units of the usual one, > 1.

    Raises:
        UserError: for any other ratio.
    """

    def __init__(self, max_ratio: float) -> None:
        if not max_ratio > 1:
            raise UserError(f"trainer.max_gradient_ratio={max_ratio}: must be > 1")
        self.max_ratio = max_ratio
        self._recent: deque[float] = deque(maxlen=WINDOW)

    @property
    def usual(self) -> float:
        """The usual norm."""
        return max(LEAST_USUAL, statistics.median(self._recent or [0.0]))

    def problem(self, norm: float) -> str | None:
        """Describe what is wrong with a gradient of this norm; None if nothing is."""
        if not norm < math.inf:
            return "the gradient is not finite"
        if norm > LARGEST:
            return f"the gradient is too large (up to {norm:.1e}, whose square overflows float32)"
        if self._recent and norm > self.max_ratio * self.usual:
            return f"the gradient is too large (up to {norm:.1e}, the limit is {self.max_ratio * self.usual:.1e})"
        return None

    def record(self, norm: float) -> None:
        """Count the norm of a step that was taken; zero, as of a loss without active triplets, says nothing."""
        if norm:
            self._recent.append(norm)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to decide as an unbroken one."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._recent.extend(state["recent"])
