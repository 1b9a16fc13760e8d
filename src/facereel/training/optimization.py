"""Which parameters of a stage are optimized, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from facereel.models import VideoHasher

SCHEDULES = ("constant", "one_cycle")

_SGD = partial(torch.optim.SGD, momentum=0.9)


@dataclass(frozen=True)
class OptimizationOptions:
    """How a stage is optimized.

    Args:
        optimizer: called with parameter groups.
        lr: learning rate of encoder and pooling.
        head_lr_multiplier: learning rate of the hash layers and the loss's own parameters over `lr`.
        schedule: "constant" or "one_cycle" (Smith and Topin 2018: up for a tenth of the steps, then down by cosine).
        freeze_encoder: train on features: batches have features in place of images.
        freeze_batch_norm: keep the encoder's batch-norm statistics: a batch of few people has others than the images
            that are searched later.

    Raises:
        ValueError: for another schedule.
    """

    optimizer: Callable[..., Optimizer] = _SGD
    lr: float = 1e-3
    head_lr_multiplier: float = 1.0
    schedule: str = "constant"
    freeze_encoder: bool = False
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule}: must be one of {', '.join(SCHEDULES)}")

    def build_optimizer(self, hasher: VideoHasher, loss: nn.Module) -> Optimizer:
        """Build the optimizer with two parameter groups: encoder and pooling, then head and loss.

        Raises:
            ValueError: for options that it does not take.
        """
        encoder = [] if self.freeze_encoder else hasher.encoder.parameters()
        trunk = [*encoder, *hasher.pooling.parameters()]
        head = [*hasher.head.parameters(), *loss.parameters()]
        lrs = self._group_lrs()
        groups: list[dict[str, Any]] = [{"params": trunk, "lr": lrs[0]}, {"params": head, "lr": lrs[1]}]
        try:
            return self.optimizer(groups)
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {error}; remove the option that it does not take") from error

    def build_one_cycle(self, optimizer: Optimizer, n_steps: int, n_done: int = 0) -> OneCycleLR:
        """Build the schedule of `n_steps` steps, of which the first `n_done` were taken."""
        n_steps = max(2, n_steps)
        return OneCycleLR(
            optimizer,
            self._group_lrs(),
            total_steps=n_steps,
            pct_start=rising_fraction(n_steps),
            cycle_momentum=False,
            last_epoch=n_done - 1,
        )

    def _group_lrs(self) -> list[float]:
        return [self.lr, self.lr * self.head_lr_multiplier]


def rising_fraction(n_steps: int) -> float:
    """A tenth of the steps; but PyTorch's schedule divides by zero where that is exactly one step."""
    return 0.1 if n_steps != 10 else 0.3
