"""Checkpoints that appear whole or not at all, and are read without unpickling code."""

from __future__ import annotations

import io
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import distributed

from facereel.errors import Terminated
from facereel.files import write_beside
from facereel.training.datamodule import Begun
from facereel.training.seeds import random_state


class WholeFileIO(TorchCheckpointIO):
    """Write beside, then rename; Lightning's own would write into the system's folder for temporary files first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint to a local path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch.save into a file says nothing of a full disk
        torch.save(checkpoint, content)
        content.seek(0)
        # Not by getbuffer(): with a full disk its view, in the error's frames, crashes the garbage collector of 3.12.1.
        with write_beside(path) as beside, beside.open("wb") as file:
            shutil.copyfileobj(content, file)


class StageCheckpoint(ModelCheckpoint):
    """best.ckpt by val/mAP, and behind every epoch last.ckpt, from which a killed run goes on.

    Killed between the two, a run trains the epoch again and comes to the same best.ckpt. At SIGTERM, which SLURM and
    machines that are taken away send some time before SIGKILL, it writes last.ckpt behind the step, or where that was
    its epoch's last, behind the epoch, and ends.

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
        self.has_begun = False
        """Whether training goes on: a checkpoint, if there was one, is read."""
        self.is_asked_to_end = False
        self._begun: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Know whose batches a checkpoint from within an epoch goes on with."""
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def _ask_to_end(self, number: int, frame: object) -> None:
        self.is_asked_to_end = True

    def _is_to_end(self, trainer: pl.Trainer) -> bool:
        """Whether one of the processes was asked to."""
        return trainer.strategy.reduce_boolean_decision(self.is_asked_to_end, all=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning, which would go on until the epoch ends; it puts back what was before itself."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask_to_end)
        self.has_begun = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End here if asked to: the epoch before is saved."""
        if self._is_to_end(trainer):
            raise self.ended(f"is saved behind epoch {trainer.current_epoch}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End here if the step before was saved: only now its figures are in the logs."""
        if self._begun is not None:
            raise self.ended(f"is saved behind step {batch_idx} of epoch {trainer.current_epoch + 1}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save behind this step if asked to end."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        n_batches = batch_idx + 1
        is_last = n_batches == trainer.num_training_batches or trainer.global_step == trainer.max_steps
        if self._is_to_end(trainer) and not is_last and n_batches % trainer.accumulate_grad_batches == 0:
            states: list[Any] = [random_state()]
            if trainer.world_size > 1:
                states = [None] * trainer.world_size
                distributed.all_gather_object(states, random_state())
            self._begun = {"epoch": trainer.current_epoch, "n_batches": n_batches, "random": states}
            trainer.save_checkpoint(self.last)

    def ended(self, how: str) -> Terminated:
        """What a stage that was asked to end says."""
        folder = self.last.parent
        return Terminated(f"{folder.name} {how}: facereel train resume={folder.parent} goes on from there")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save last.ckpt after best.ckpt, so that it knows which epoch was the best.

        Lightning's own `save_last` writes only where best.ckpt is written: a run whose val/mAP had not risen for long
        would lose all that time.
        """
        super().on_train_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        """What was best, and within an epoch how far it has come."""
        return {**super().state_dict(), "begun": self._begun}

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
        if (begun := state_dict.get("begun")) is not None:
            states = begun["random"]
            own = states[self._trainer.global_rank % len(states)]
            # Now: Lightning asks for the batches before the hooks at the start.
            self._trainer.datamodule.begun = Begun(begun["epoch"], begun["n_batches"], own)  # type: ignore[attr-defined]

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path
