"""Loggers beside the CSV, such as W&B: whatever happens to them, the run goes on, and metrics.csv is complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger

# W&B waits for its server at the start of a run, and at its end for what is not sent yet; seconds, unless set already.
_PATIENCE = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60"}


class Aside(Logger):
    """Hand everything on to a logger until it fails; from then on do nothing.

    Args:
        logger: which one; None does nothing from the start.
        tell: told in a line when it fails.
    """

    def __init__(self, logger: Logger | None, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.logger, self.tell = logger, tell

    @property
    def name(self) -> str:
        """That of the logger's class."""
        return type(self.logger).__name__

    @property
    def version(self) -> str:
        """None is told."""
        return ""

    def log_metrics(self, *arguments: Any, **named: Any) -> None:
        """Log figures."""
        self._hand_on("log_metrics", *arguments, **named)

    def log_hyperparams(self, *arguments: Any, **named: Any) -> None:
        """Log options."""
        self._hand_on("log_hyperparams", *arguments, **named)

    def save(self) -> None:
        """Write what is in memory."""
        self._hand_on("save")

    def finalize(self, status: str) -> None:
        """End a stage."""
        self._hand_on("finalize", status)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Take a checkpoint."""
        self._hand_on("after_save_checkpoint", checkpoint_callback)

    def _hand_on(self, method: str, *arguments: Any, **named: Any) -> None:
        if self.logger is None:
            return
        try:
            getattr(self.logger, method)(*arguments, **named)
        except Exception as error:  # of a program or a service that is not ours
            self.tell(
                f"note: {self.name} failed ({_reason(error)}): the run goes on without it; metrics.csv is complete"
            )
            self.logger = None


def start_aside(config: DictConfig, prefix: str, tell: Callable[[str], object]) -> Aside:
    """Build a logger and have it begin; if its server cannot be reached, offline.

    Args:
        config: of the logger.
        prefix: of the names of its figures.
        tell: told in a line what it cannot do.
    """
    for name, seconds in _PATIENCE.items():
        os.environ.setdefault(name, seconds)
    options: dict[str, Any] = {"prefix": prefix}
    while True:
        logger = instantiate(config, **options)
        try:
            getattr(logger, "experiment", None)  # W&B begins when it is first asked for
        except Exception as error:  # of a program or a service that is not ours
            kind = type(logger).__name__
            if not isinstance(logger, WandbLogger) or config.get("offline") or "offline" in options:
                tell(
                    f"note: {kind} cannot begin ({_reason(error)}): the run goes on without it; metrics.csv is complete"
                )
                return Aside(None, tell)
            tell(f"note: {kind} cannot begin online ({_reason(error)}): the run is logged offline; wandb sync sends it")
            # W&B has read its mode from the environment by now, where `offline` would set it.
            options |= {"offline": True, "mode": "offline"}
        else:
            return Aside(logger, tell)


def finish_wandb(tell: Callable[[str], object]) -> None:
    """Close the run that the loggers of all stages share, so that a sweep's next job opens its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        try:
            wandb.finish()
        except Exception as error:  # of a program or a service that is not ours
            tell(f"note: W&B failed at the end ({_reason(error)}); metrics.csv is complete")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
