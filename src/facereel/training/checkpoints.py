"""Checkpoints that are written completely or not at all, and are loaded without unpickling code."""

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
from facereel.storage.files import atomic_write
from facereel.training.data_module import ResumePoint
from facereel.training.seeds import random_state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write next to the file, then rename; Lightning's default writes to the system's temporary folder first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint to a local path.

        Args:
            checkpoint: content of the checkpoint.
            path: path of the file.
            storage_options: ignored.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch.save to a file does not report a full disk
        torch.save(checkpoint, content)
        content.seek(0)
        # Not getbuffer(): when the disk is full, its view in the frames of the error crashes the garbage collector of
        # Python 3.12.1.
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(content, file)


class StageCheckpoint(ModelCheckpoint):
    """Write last.ckpt after every epoch, from which a killed run resumes, and best.ckpt when val/mAP improves.

    A run that is killed between the two trains the epoch again and gets the same best.ckpt. At SIGTERM, which SLURM and
    preempted machines send some time before SIGKILL, last.ckpt is written after the current step, or after the epoch if
    the step is its last one, and the run ends.

    Args:
        folder: folder of the stage.
        monitored: whether val/mAP is logged; if not, there is no best.ckpt, and the last epoch is used.
    """

    def __init__(self, folder: Path, monitored: bool) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor="val/mAP" if monitored else None,
            mode="max",
            save_top_k=int(monitored),
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.last = folder / "last.ckpt"
        self.has_started = False
        """Whether training has started, after loading a checkpoint if there is one."""
        self.is_terminated = False
        """Whether SIGTERM arrived."""
        self._resume_point: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember the trainer: a checkpoint from within an epoch sets the batches to resume from."""
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle SIGTERM instead of Lightning, which would continue until the epoch ends; it restores the handler."""
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)
        self.has_started = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the run after SIGTERM: the last epoch is saved."""
        if self._ends(trainer):
            raise self.termination(f"is saved after epoch {trainer.current_epoch}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the run if the last step was saved: only now are its metrics in the logs."""
        if self._resume_point is not None:
            raise self.termination(f"is saved after step {batch_idx} of epoch {trainer.current_epoch + 1}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after this step if SIGTERM arrived."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        n_batches = batch_idx + 1
        is_last = n_batches == trainer.num_training_batches or trainer.global_step == trainer.max_steps
        if self._ends(trainer) and not is_last and n_batches % trainer.accumulate_grad_batches == 0:
            states: list[Any] = [random_state()]
            if trainer.world_size > 1:
                states = [None] * trainer.world_size
                distributed.all_gather_object(states, random_state())
            self._resume_point = {"epoch": trainer.current_epoch, "n_batches": n_batches, "random": states}
            trainer.save_checkpoint(self.last)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save last.ckpt after best.ckpt, so that it records which epoch was the best.

        Lightning's `save_last` writes only when best.ckpt is written: a run would lose all epochs since val/mAP last
        improved.
        """
        super().on_train_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        """Return the best checkpoint and, within an epoch, the point to resume from."""
        return {**super().state_dict(), "resume_point": self._resume_point}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best checkpoint, even if the run folder was moved: Lightning would forget the score."""
        moved = {
            **state_dict,
            "dirpath": self.dirpath,
            "best_k_models": {self._here(path): score for path, score in state_dict["best_k_models"].items()},
        }
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = self._here(state_dict[name])
        super().load_state_dict(moved)
        if (point := state_dict.get("resume_point")) is not None:
            states = point["random"]
            own = states[self._trainer.global_rank % len(states)]
            # Set here, because Lightning builds the loaders before it calls the hooks at the start.
            self._trainer.datamodule.resume_point = ResumePoint(point["epoch"], point["n_batches"], own)  # type: ignore[attr-defined]

    def termination(self, how: str) -> Terminated:
        """Return the exception with which a stage ends after SIGTERM.

        Args:
            how: what was saved, for the message.
        """
        folder = self.last.parent
        return Terminated(f"{folder.name} {how}: continue with facereel train resume={folder.parent}")

    def _terminate(self, number: int, frame: object) -> None:
        self.is_terminated = True

    def _ends(self, trainer: pl.Trainer) -> bool:
        """Return whether SIGTERM arrived in one of the processes."""
        return trainer.strategy.reduce_boolean_decision(self.is_terminated, all=False)

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path
