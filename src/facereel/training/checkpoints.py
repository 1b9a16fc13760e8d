"""Checkpoints that appear whole or not at all, and are read without unpickling code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from facereel.files import write_beside


class WholeFileIO(TorchCheckpointIO):
    """Write beside, then rename; Lightning's own would write into the system's folder for temporary files first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint to a local path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch.save into a file says nothing of a full disk
        torch.save(checkpoint, content)
        with write_beside(path) as beside:
            beside.write_bytes(content.getbuffer())


class StageCheckpoint(ModelCheckpoint):
    """best.ckpt by val/mAP, and behind every epoch last.ckpt, from which a killed run goes on.

    Killed between the two, a run trains the epoch again and comes to the same best.ckpt.

    Args:
        folder: of the stage.
        monitored: whether there is val/mAP to choose by; else the last epoch is the best.
    """

    def __init__(self, folder: Path, monitored: bool) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor="val/mAP" if monitored else None,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.last = folder / "last.ckpt"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save last.ckpt after best.ckpt, so that it knows which epoch was the best.

        Lightning's own `save_last` writes only where best.ckpt is written: a run whose val/mAP had not risen for long
        would lose all that time.
        """
        super().on_train_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(self.last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best, also where the run's folder was moved since: Lightning would forget the score."""
        moved = {
            **state_dict,
            "dirpath": self.dirpath,
            "best_k_models": {self._here(path): score for path, score in state_dict["best_k_models"].items()},
        }
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = self._here(state_dict[name])
        super().load_state_dict(moved)

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path
