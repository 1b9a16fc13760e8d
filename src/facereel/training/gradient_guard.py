"""Keep gradients that are not finite or too large from the weights: one of 1e33 ruins them as surely as infinity."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from facereel.data import Clip
from facereel.errors import UserError
from facereel.storage.files import atomic_write

# Steps whose median is the usual norm.
WINDOW = 20
# The usual norm is at least this: a loss of triplets that are nearly all far apart has gradients of 1e-5, and the next
# hard example has one of 100, which does no harm.
LEAST_USUAL = 1.0

# The largest number with a square in float32: Adam's second moment and gradient clipping need the square.
LARGEST = 1.8e19


def max_norm(gradients: list[Tensor], default: Tensor) -> Tensor:
    """The largest absolute value in gradients, as a float32 scalar: NaN if one is, zero if there are none.

    The maximum is exact on every processor. Sums of squares overflow near 1e19 in some kernels and not in others.

    Args:
        gradients: of any shapes.
        default: a tensor whose device is used if there are none.
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
        ValueError: for any other ratio.
    """

    def __init__(self, max_ratio: float) -> None:
        if not max_ratio > 1:
            raise ValueError(f"max_gradient_ratio={max_ratio}: must be > 1")
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
        """Count the norm of a step that was taken; zero, as of a loss without active triplets, is ignored."""
        if norm:
            self._recent.append(norm)

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed run decides as an unbroken one."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._recent.extend(state["recent"])


class GradientGuard(Callback):
    """Keep a loss or gradient that is not finite, or a gradient that is too large, from the weights.

    Args:
        action: what to do in such a step: "stop" the run, or "skip" the step and count it. The batches accumulated so
            far in that step are skipped with it.
        max_ratio: largest absolute value in a gradient, before clipping, in units of the usual one: see
            `GradientLimit`.

    Raises:
        ValueError: for another action or ratio.
    """

    def __init__(self, action: str = "stop", max_ratio: float = 1e6) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"nonfinite={action}: must be one of stop, skip")
        self.action = action
        self.n_skipped = 0
        self._limit = GradientLimit(max_ratio)
        self._norm = 0.0
        self._buffers: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Copy what a step changes besides weights: statistics of batch norms, class means, counters."""
        if self.action == "skip":
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss: it may be NaN where the gradient is not."""
        self._loss = loss.detach()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at loss and gradient.

        Raises:
            UserError: if the run is to stop.
        """
        # With 16-mixed a scaler regularly meets such gradients, and skips these steps.
        scaled = trainer.precision == "16-mixed"
        gradients = [] if scaled else [p.grad for p in pl_module.parameters() if p.grad is not None]
        # Together, so that a GPU is waited for once.
        loss, self._norm = torch.stack([self._loss.float(), max_norm(gradients, self._loss)]).tolist()
        problem = self._limit.problem(self._norm) if math.isfinite(loss) else "the loss is not finite"
        # All processes skip the same steps, though each has its own loss.
        if trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            return
        if self.action == "stop":
            problem = problem or "another process had a loss or gradient that is not finite, or too large,"
            raise UserError(
                f"{Path(trainer.default_root_dir).name}: {problem} in epoch {trainer.current_epoch + 1}, step "
                f"{trainer.global_step + 1} (its batch is named in {_write_batch(trainer)}): lower the learning rate, "
                "or skip such steps with nonfinite=skip"
            )
        for name, buffer in pl_module.named_buffers():
            buffer.copy_(self._buffers[name])
        self.n_skipped += 1
        self._norm = 0.0
        if not scaled:
            # Without gradients the optimizer leaves weights and momentum as they are.
            pl_module.zero_grad(set_to_none=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Count the norm of the whole step, of all its batches and processes, towards the usual one."""
        self._limit.record(self._norm)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the number of steps skipped so far."""
        if self.action == "skip":
            pl_module.log("train/nonfinite_steps", float(self.n_skipped))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the last checkpoint if a weight is not finite, as after a step so long that it overflowed.

        Raises:
            UserError: if one is not.
        """
        bad = [name for name, tensor in pl_module.state_dict().items() if not tensor.isfinite().all()]
        if bad:
            raise UserError(
                f"{Path(trainer.default_root_dir).name}: {bad[0]} is not finite after epoch "
                f"{trainer.current_epoch + 1}: lower the learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed run decides and counts as an unbroken one."""
        return {**self._limit.state_dict(), "n_skipped": self.n_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._limit.load_state_dict(state_dict)
        self.n_skipped = state_dict["n_skipped"]


def _write_batch(trainer: pl.Trainer) -> Path:
    """Name the clips and stills of the batch, those of all processes, in a file of the stage's folder."""
    items = trainer.datamodule.batch_items(trainer.fit_loop.epoch_loop.batch_idx)  # type: ignore[attr-defined]
    content = {
        "epoch": trainer.current_epoch + 1,
        "step": trainer.global_step + 1,
        "clips": [item.key for item in items if isinstance(item, Clip)],
        "stills": [item.key for item in items if not isinstance(item, Clip)],
    }
    file = Path(trainer.default_root_dir) / "nonfinite_batch.json"
    if trainer.is_global_zero:
        with atomic_write(file) as path:
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file
