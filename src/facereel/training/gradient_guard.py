"""Protection of weights from gradients that are not finite or too large: 1e33 ruins them just like infinity."""

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

# The usual norm is the median of this number of steps.
WINDOW = 20
# The usual norm is at least this: if nearly all triplets are far apart, their loss has gradients of 1e-5, and the next
# hard example has one of 100, which does no harm.
LEAST_USUAL = 1.0

# The square of a larger number overflows float32, and Adam's second moment and gradient clipping need the square.
LARGEST = 1.8e19


def max_norm(gradients: list[Tensor], default: Tensor) -> Tensor:
    """Compute the largest absolute value in gradients.

    The maximum is exact on every processor. Sums of squares overflow near 1e19 in some kernels and not in others.

    Args:
        gradients: tensors of any shapes.
        default: the result is on the device of this tensor if there are no gradients.

    Returns:
        A float32 scalar: NaN if a gradient contains NaN, zero if there are no gradients.
    """
    if not gradients:
        return torch.zeros_like(default, dtype=torch.float32)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients, math.inf)]).amax()


class GradientLimit:
    """Compare the max norm of each gradient with the usual norm of the steps before it.

    The usual norm is the median of the last 20 steps, and at least 1. The window, this minimum and the ratio are our
    choice.

    Args:
        max_ratio: largest norm that is accepted, as a multiple of the usual norm, > 1.

    Raises:
        ValueError: if the ratio is not > 1.
    """

    def __init__(self, max_ratio: float) -> None:
        if not max_ratio > 1:
            raise ValueError(f"max_gradient_ratio={max_ratio}: must be > 1")
        self.max_ratio = max_ratio
        self._recent: deque[float] = deque(maxlen=WINDOW)

    @property
    def usual(self) -> float:
        """Usual norm of a gradient."""
        return max(LEAST_USUAL, statistics.median(self._recent or [0.0]))

    def problem(self, norm: float) -> str | None:
        """Describe what is wrong with a gradient.

        Args:
            norm: its max norm.

        Returns:
            The problem, or None.
        """
        if not norm < math.inf:
            return "the gradient is not finite"
        if norm > LARGEST:
            return f"the gradient is too large (up to {norm:.1e}, whose square overflows float32)"
        if self._recent and norm > self.max_ratio * self.usual:
            return f"the gradient is too large (up to {norm:.1e}, the limit is {self.max_ratio * self.usual:.1e})"
        return None

    def record(self, norm: float) -> None:
        """Record the norm of a step that was taken; zero is ignored, as of a loss without active triplets."""
        if norm:
            self._recent.append(norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs to decide like an uninterrupted one."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self._recent.extend(state["recent"])


class GradientGuard(Callback):
    """Protect the weights from a loss or gradient that is not finite, or a gradient that is too large.

    Args:
        action: what to do in such a step: "stop" the run, or "skip" the step and count it. The batches accumulated so
            far in that step are also skipped.
        max_ratio: largest absolute value in a gradient, before clipping, as a multiple of the usual one: see
            `GradientLimit`.

    Raises:
        ValueError: if the action is unknown, or the ratio is not > 1.
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
        """Copy the buffers that a step changes: batch norm statistics, class means, counters."""
        if self.action == "skip":
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Remember the loss: it may be NaN when the gradient is not."""
        self._loss = loss.detach()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the loss and the gradient.

        Raises:
            UserError: if there is a problem and the action is "stop".
        """
        # With 16-mixed, such gradients are normal, and the gradient scaler skips these steps.
        scaled = trainer.precision == "16-mixed"
        gradients = [] if scaled else [p.grad for p in pl_module.parameters() if p.grad is not None]
        # Both at once, to wait for the GPU only once.
        loss, self._norm = torch.stack([self._loss.float(), max_norm(gradients, self._loss)]).tolist()
        problem = self._limit.problem(self._norm) if math.isfinite(loss) else "the loss is not finite"
        # All processes skip the same steps, although each has its own loss.
        if trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            return
        if self.action == "stop":
            problem = problem or "the loss or gradient of another process is not finite or is too large"
            raise UserError(
                f"{Path(trainer.default_root_dir).name}: {problem} in epoch {trainer.current_epoch + 1}, step "
                f"{trainer.global_step + 1} (batch listed in {_write_batch(trainer)}): lower the learning rate, "
                "or skip such steps with nonfinite=skip"
            )
        for name, buffer in pl_module.named_buffers():
            buffer.copy_(self._buffers[name])
        self.n_skipped += 1
        self._norm = 0.0
        if not scaled:
            # Without gradients the optimizer does not change weights and momentum.
            pl_module.zero_grad(set_to_none=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Record the norm of the whole step, over all its batches and processes."""
        self._limit.record(self._norm)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the number of steps skipped so far."""
        if self.action == "skip":
            pl_module.log("train/nonfinite_steps", float(self.n_skipped))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Do not overwrite the last checkpoint if a weight is not finite, as after a step that overflowed.

        Raises:
            UserError: if a weight is not finite.
        """
        bad = [name for name, tensor in pl_module.state_dict().items() if not tensor.isfinite().all()]
        if bad:
            raise UserError(
                f"{Path(trainer.default_root_dir).name}: {bad[0]} is not finite after epoch "
                f"{trainer.current_epoch + 1}: lower the learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs to decide and count like an uninterrupted one."""
        return {**self._limit.state_dict(), "n_skipped": self.n_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self._limit.load_state_dict(state_dict)
        self.n_skipped = state_dict["n_skipped"]


def _write_batch(trainer: pl.Trainer) -> Path:
    """Write the keys of the batch's clips and stills, of all processes, to a file in the folder of the stage.

    Returns:
        The path of the file.
    """
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
