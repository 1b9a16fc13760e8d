"""Loggers in addition to the CSV, such as W&B: if one fails, the run continues, and metrics.csv is complete."""

import os
import sys
from collections.abc import Callable
from functools import partialmethod
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger

# Seconds that W&B waits for its server when a run starts, and for unsent metrics when it ends. Environment variables
# take precedence.
_PATIENCE = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60"}


class FaultTolerantLogger(Logger):
    """Forward every call to a logger until it fails, then ignore all calls.

    Args:
        logger: the logger; None ignores all calls from the start.
        report: called with a note when the logger fails.
    """

    def __init__(self, logger: Logger | None, report: Callable[[str], object]) -> None:
        super().__init__()
        self.logger, self.report = logger, report

    @property
    def name(self) -> str:
        """Class name of the logger."""
        return type(self.logger).__name__

    @property
    def version(self) -> str:
        """Empty version, so that Lightning does not create a folder for it."""
        return ""

    def _forward(self, method: str, *arguments: Any, **named: Any) -> None:
        if self.logger is None:
            return
        try:
            getattr(self.logger, method)(*arguments, **named)
        except Exception as error:  # any program or service may have failed
            self.report(
                f"note: {self.name} failed ({_reason(error)}): the run continues without it; metrics.csv is complete"
            )
            self.logger = None

    log_metrics = partialmethod(_forward, "log_metrics")
    log_hyperparams = partialmethod(_forward, "log_hyperparams")
    save = partialmethod(_forward, "save")
    finalize = partialmethod(_forward, "finalize")
    after_save_checkpoint = partialmethod(_forward, "after_save_checkpoint")


def start_fault_tolerant(config: DictConfig, prefix: str, report: Callable[[str], object]) -> FaultTolerantLogger:
    """Build a logger and start it, offline if its server cannot be reached.

    Args:
        config: configuration of the logger.
        prefix: prefix of the names of its metrics.
        report: called with a note if the logger cannot start.

    Returns:
        The wrapped logger; one that ignores all calls if it cannot start.
    """
    for name, seconds in _PATIENCE.items():
        os.environ.setdefault(name, seconds)
    options: dict[str, Any] = {"prefix": prefix}
    while True:
        logger = instantiate(config, **options)
        try:
            getattr(logger, "experiment", None)  # W&B starts at the first access
        except Exception as error:  # any program or service may have failed
            problem = f"note: {type(logger).__name__} cannot start"
            if not isinstance(logger, WandbLogger) or config.get("offline") or "offline" in options:
                report(f"{problem} ({_reason(error)}): the run continues without it; metrics.csv is complete")
                return FaultTolerantLogger(None, report)
            report(f"{problem} online ({_reason(error)}): the run is logged offline; upload it with wandb sync")
            # `offline` only sets an environment variable, which W&B has already read by now.
            options |= {"offline": True, "mode": "offline"}
        else:
            return FaultTolerantLogger(logger, report)


def finish_wandb(report: Callable[[str], object]) -> None:
    """Close the W&B run that the loggers of all stages share, so that the next job of a sweep opens its own.

    Args:
        report: called with a note if W&B fails.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        try:
            wandb.finish()
        except Exception as error:  # any program or service may have failed
            report(f"note: W&B failed at the end ({_reason(error)}); metrics.csv is complete")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
