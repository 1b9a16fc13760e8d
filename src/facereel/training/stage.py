"""One training stage: its parts, its trainer, its checkpoints and its log."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy

from facereel.console import Console
from facereel.data import Clip, FaceSet
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.files import remove_unfinished, write_beside
from facereel.models import VideoHasher
from facereel.processes import devices_of, environment, from_first, n_local, on_gpu, world_size
from facereel.training.checkpoints import StageCheckpoint, WholeFileIO
from facereel.training.datamodule import FaceDataModule
from facereel.training.loggers import start_aside
from facereel.training.module import HashingModule
from facereel.training.seeds import BUILDING, seed_all

# Written into a stage's folder when its model is there; holds what its checkpoint was chosen by.
DONE_FILE = "done.json"

console = Console(highlight=False, soft_wrap=True)


def build_parts(
    cfg: DictConfig, place: int, stage: DictConfig, hasher: VideoHasher, faces: FaceSet, split: Split
) -> tuple[HashingModule, FaceDataModule]:
    """Build what trains a stage, the place-th of the run, and its batches."""
    seed = cfg.seed + 1_000_003 * place  # other draws in each stage
    seed_all(BUILDING, seed)  # whatever was drawn before: of a continued run, the stages that are done draw nothing
    trains_codes = bool(stage.trains_codes)
    data = FaceDataModule(
        faces,
        split,
        seed=seed,
        people=stage.batches == "people",
        **cfg.batch,
        # Pictures are augmented before they are encoded.
        transform=None if stage.freeze_encoder else instantiate(cfg.augment.pictures),
        num_workers=cfg.trainer.num_workers,
    )
    known = {"n_people": len(faces.people), "dim": hasher.encoder.dim, "n_bits": hasher.n_bits}
    features = cfg.augment.features if stage.augment_features else None
    if not stage.lr > 0:
        raise UserError(f"a stage's lr={stage.lr}: must be > 0")
    module = HashingModule(
        hasher,
        instantiate(_filled(stage.loss, known)),
        instantiate(stage.optimizer, _partial_=True),
        lr=stage.lr,
        head_lr_factor=stage.head_lr_factor,
        schedule=stage.schedule,
        trains_codes=trains_codes,
        freeze_batch_norm=stage.freeze_batch_norm,
        freeze_encoder=stage.freeze_encoder,
        feature_augment=instantiate(_filled(features, known)) if features else None,
        seed=seed,
        nonfinite=cfg.trainer.nonfinite,
        max_gradient_ratio=cfg.trainer.max_gradient_ratio,
    )
    return module, data


def start_from_means(loss: Any, features: FaceSet, data: FaceDataModule) -> None:
    """Let a loss's vectors start where the encoder has the people, not at random, which would undo what it knows."""
    rows = [row for item in data.items for row in (item.rows if isinstance(item, Clip) else (item.row,))]
    labels = [item.person for item in data.items for _ in (item.rows if isinstance(item, Clip) else (item.row,))]
    loss.start_from(features.pictures(rows), torch.tensor(labels))


def build_trainer(cfg: DictConfig, plugins: Sequence[Any] = (), unused: bool = False, **options: Any) -> pl.Trainer:
    """Build Lightning's trainer as configured, for the processes there are.

    Args:
        cfg: as composed from configs/train.yaml.
        plugins: of the trainer.
        unused: whether some weights get no gradient, which several processes must then look for.
        options: of the trainer.

    Raises:
        UserError: for options that do not go together.
    """
    if cfg.trainer.accumulate_grad_batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches}: must be at least 1")
    clip = cfg.trainer.gradient_clip_val
    if clip is not None and not (isinstance(clip, int | float) and clip > 0):
        raise UserError(f"trainer.gradient_clip_val={clip}: must be a number > 0, or null")
    several = world_size() > 1
    devices = devices_of(cfg.trainer)
    if cfg.trainer.sync_batchnorm and several and not on_gpu(cfg.trainer):
        raise UserError("trainer.sync_batchnorm=true: PyTorch can do so on GPUs only; freeze_batch_norm works anywhere")
    found: dict[str, Any] = {"devices": devices}
    if several:
        found = {
            "strategy": DDPStrategy(find_unused_parameters=unused),
            "devices": devices if isinstance(devices, list) else n_local(),
            "num_nodes": world_size() // n_local(),
        }
    return pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        sync_batchnorm=cfg.trainer.sync_batchnorm and several,
        deterministic=cfg.trainer.deterministic,
        check_val_every_n_epoch=cfg.trainer.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        # The loader of each epoch is made anew, with its own batches.
        reload_dataloaders_every_n_epochs=1,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[*plugins, environment()],
        **found,
        **options,
    )


def train_stage(
    cfg: DictConfig, name: str, stage: DictConfig, module: HashingModule, data: FaceDataModule, folder: Path
) -> None:
    """Train a stage, or go on where it was stopped, and write the model of its best checkpoint into its folder."""
    best = StageCheckpoint(folder, data.has_val)
    interactive = sys.stdout.isatty()
    progress: Callback = RichProgressBar() if interactive else _EpochLines(name)
    last = best.last
    continues = from_first(_tidy, folder, last)
    _prepare_encoder(cfg, module.hasher)
    n_steps = -(-len(data.train_dataloader()) // cfg.trainer.accumulate_grad_batches)
    loggers = [
        CSVLogger(folder, name="", version=""),
        *(start_aside(logger, name, console.print) for logger in (cfg.logger or {}).values()),
    ]
    trainer = build_trainer(
        cfg,
        default_root_dir=folder,
        max_epochs=stage.epochs if stage.max_steps is None else -(-stage.max_steps // n_steps),
        max_steps=-1 if stage.max_steps is None else stage.max_steps,
        limit_val_batches=1.0 if data.has_val else 0,
        # The CSV log holds a short stage too.
        log_every_n_steps=min(10, n_steps, stage.max_steps or n_steps),
        logger=loggers,
        callbacks=[best, progress],
        plugins=[WholeFileIO()],
        # Pretraining has a head without gradient, single pictures leave the clips' part of one.
        unused=not module.trains_codes or not data.people or _has_own_parts(module),
        enable_progress_bar=interactive,
    )
    console.print(f"{name}: {'continues' if continues else 'starts'}, {n_steps} steps an epoch")
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if continues else None, weights_only=True)
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename or folder}; checkpoints are whole, "
            f"facereel train resume={folder.parent} goes on from the last"
        ) from error
    except Exception as error:
        if best.has_begun or not continues or isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"Cannot resume from {last}: {reason}. Delete it to train {name} again.") from error
    except SystemExit:
        # How Lightning ends after Ctrl-C, with the signal ignored from then on.
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    from_first(_finish, best, module.hasher.trust, folder)


def _has_own_parts(module: HashingModule) -> bool:
    """Whether a part is a class of the user's, which may have weights that get no gradient."""
    parts = (module.hasher.encoder, module.hasher.pooling, module.hasher.head, module.loss)
    return any(not type(part).__module__.startswith("facereel.") for part in parts)


def _tidy(folder: Path, last: Path) -> bool:
    """Make way for a stage in its folder; whether it goes on with one that was stopped."""
    remove_unfinished(folder)
    _keep_earlier_log(folder / "metrics.csv")
    return last.exists()


def _prepare_encoder(cfg: DictConfig, hasher: VideoHasher) -> None:
    """Lay out and compile the encoder as configured, for this stage only: what is saved knows nothing of it."""
    hasher.lay_out(torch.channels_last if cfg.trainer.channels_last else torch.contiguous_format)
    backend = cfg.trainer.compile
    if backend is None:
        return
    from torch import _dynamo  # takes a second

    if backend not in (known := _dynamo.list_backends(exclude_tags=())):
        raise UserError(f"trainer.compile={backend}: must be null or one of {', '.join(known)}")
    hasher.encoder.compile(backend=backend)


def _finish(best: StageCheckpoint, trust: tuple[str, ...], folder: Path) -> None:
    """Write the stage's model, and that it is done."""
    VideoHasher.load(best.best_model_path or best.last, trust=trust).save(folder / "model")
    score = None if best.best_model_score is None else float(best.best_model_score)
    with write_beside(folder / DONE_FILE) as path:
        path.write_text(json.dumps({"val/mAP": score}), encoding="utf-8")
    if best.is_asked_to_end:
        raise best.ended("is done")


def _keep_earlier_log(path: Path) -> None:
    """Move the log of an interrupted run aside: Lightning's CSV logger starts its file anew."""
    if path.exists():
        n = 1
        while (aside := path.with_name(f"metrics-before-resume-{n}.csv")).exists():
            n += 1
        path.rename(aside)


class _EpochLines(Callback):
    """A line an epoch where there is no terminal to draw a bar in."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figures = {name: trainer.callback_metrics.get(name) for name in ("train/loss", "val/mAP")}
        text = ", ".join(f"{name} {float(value):.3f}" for name, value in figures.items() if value is not None)
        seconds = time.perf_counter() - self.started
        console.print(f"{self.stage}: epoch {trainer.current_epoch + 1}, {text}, {seconds:.0f} s")


def _filled(part: Any, known: dict[str, int]) -> Any:
    """Give a part the numbers it left as ??? because only the data or the model knows them."""
    if not isinstance(part, DictConfig):
        raise UserError(f"{part} for a loss or augment.features: must have a _target_")
    part = part.copy()
    for name, value in known.items():
        if OmegaConf.is_missing(part, name):
            part[name] = value
    return part
