"""Optimizer and learning rate schedule of a stage."""

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
    """Options of the optimizer and the schedule of a stage.

    Args:
        optimizer: callable that builds the optimizer from parameter groups.
        lr: learning rate of encoder and pooling.
        head_lr_multiplier: factor of `lr` for the hash layers and the parameters of the loss.
        schedule: "constant" or "one_cycle" (Smith and Topin 2018: it rises for a tenth of the steps, then falls along a
            cosine).
        freeze_encoder: train on features: batches contain features instead of images.
        freeze_batch_norm: keep the batch norm statistics of the encoder: those of a batch of few people differ from
            those of the images that are searched later.

    Raises:
        ValueError: if the schedule is unknown.
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

        Args:
            hasher: the model.
            loss: the loss, which may have parameters.

        Returns:
            The optimizer.

        Raises:
            ValueError: if the optimizer does not accept an option.
        """
        encoder = [] if self.freeze_encoder else hasher.encoder.parameters()
        trunk = [*encoder, *hasher.pooling.parameters()]
        head = [*hasher.head.parameters(), *loss.parameters()]
        lrs = self._group_lrs()
        groups: list[dict[str, Any]] = [{"params": trunk, "lr": lrs[0]}, {"params": head, "lr": lrs[1]}]
        try:
            return self.optimizer(groups)
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {error}; remove the option that it does not accept") from error

    def build_one_cycle(self, optimizer: Optimizer, n_steps: int, n_done: int = 0) -> OneCycleLR:
        """Build the one-cycle schedule.

        Args:
            optimizer: with the two groups of `build_optimizer`.
            n_steps: number of steps.
            n_done: number of steps that were already taken.

        Returns:
            The schedule, positioned after `n_done` steps.
        """
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
    """Return the fraction of steps in which the learning rate rises.

    It is a tenth; but PyTorch's schedule divides by zero if that is exactly one step.
    """
    return 0.1 if n_steps != 10 else 0.3
