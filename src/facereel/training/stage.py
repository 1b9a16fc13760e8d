"""One training stage: its parts, its trainer, its checkpoints and its log."""

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

from facereel.data import FaceSet
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.models import VideoHasher
from facereel.parallel.distributed import devices_of, environment, n_local, on_gpu, run_on_rank_zero, world_size
from facereel.storage.files import atomic_write, remove_unfinished
from facereel.system.console import console
from facereel.system.device import device_type
from facereel.training.checkpoints import AtomicCheckpointIO, StageCheckpoint
from facereel.training.data_module import BatchOptions, FaceDataModule
from facereel.training.gradient_guard import GradientGuard
from facereel.training.hashing_module import HashingModule
from facereel.training.loggers import start_fault_tolerant
from facereel.training.optimization import OptimizationOptions
from facereel.training.seeds import BUILDING, SeedEpochs, seed_all

# Written to the folder of a stage after its model; contains the score by which the checkpoint was chosen.
DONE_FILE = "done.json"


def build_parts(
    cfg: DictConfig, place: int, stage: DictConfig, hasher: VideoHasher, faces: FaceSet, split: Split
) -> tuple[HashingModule, FaceDataModule]:
    """Build the module and the batches of a stage.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        place: index of the stage in the run, from 0.
        stage: options of the stage.
        hasher: model, trained in place.
        faces: the data set, or its features.
        split: split of the data set.

    Returns:
        The module and its data module.
    """
    # Independent of earlier draws: in a resumed run, stages that are done draw nothing.
    seed_all(BUILDING, _seed(cfg, place))
    data = FaceDataModule(
        faces,
        split,
        batch=BatchOptions(**cfg.batch),
        people=stage.batches == "people",
        transform=_image_augment(cfg, stage, "workers"),
        num_workers=cfg.trainer.num_workers,
        seed=_seed(cfg, place),
    )
    return build_module(cfg, place, stage, hasher, len(faces.people)), data


def build_module(cfg: DictConfig, place: int, stage: DictConfig, hasher: VideoHasher, n_people: int) -> HashingModule:
    """Build the module of a stage.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        place: index of the stage in the run, from 0.
        stage: options of the stage.
        hasher: model, trained in place.
        n_people: number of people in the data.

    Returns:
        The module.
    """
    known = {"n_people": n_people, "dim": hasher.encoder.dim, "n_bits": hasher.n_bits}
    features = cfg.augment.features if stage.augment_features else None
    return HashingModule(
        hasher,
        instantiate(_filled(stage.loss, known)),
        OptimizationOptions(
            instantiate(stage.optimizer, _partial_=True),
            stage.lr,
            stage.head_lr_multiplier,
            stage.schedule,
            stage.freeze_encoder,
            stage.freeze_batch_norm,
        ),
        train_hash=bool(stage.train_hash),
        feature_augment=instantiate(_filled(features, known)) if features else None,
        image_augment=_image_augment(cfg, stage, "device"),
        seed=_seed(cfg, place),
    )


def _image_augment(cfg: DictConfig, stage: DictConfig, place: str) -> Any:
    """Return the augmentation of images if it is configured for a place, which is "workers" or "device"."""
    # Images are augmented before they are encoded.
    return None if stage.freeze_encoder or cfg.augment.runs_on != place else instantiate(cfg.augment.images)


def init_proxies(loss: Any, features: FaceSet, data: FaceDataModule) -> None:
    """Initialize the vectors of a loss from features: random vectors would undo what the encoder has learned.

    Args:
        loss: a loss with `start_from`, changed in place.
        features: features of the data set.
        data: batches of the stage.
    """
    rows = [row for item in data.items for row in item.rows]
    labels = [item.person for item in data.items for _ in item.rows]
    loss.start_from(features.images(rows), torch.tensor(labels))


def build_trainer(
    cfg: DictConfig,
    callbacks: Sequence[Callback] = (),
    plugins: Sequence[Any] = (),
    unused: bool = False,
    **options: Any,
) -> pl.Trainer:
    """Build the Lightning trainer as configured, for the number of processes that were started.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        callbacks: callbacks of the trainer, in addition to the `GradientGuard`.
        plugins: plugins of the trainer.
        unused: whether a step may leave parameters without a gradient; several processes must then search for them.
        **options: further options of the trainer.

    Returns:
        The trainer.

    Raises:
        UserError: if options contradict each other.
    """
    several = world_size() > 1
    devices = devices_of(cfg.trainer)
    if cfg.trainer.sync_batchnorm and several and not on_gpu(cfg.trainer):
        raise UserError(
            "trainer.sync_batchnorm=true: PyTorch supports it on GPUs only; use freeze_batch_norm, which works anywhere"
        )
    found: dict[str, Any] = {"devices": devices}
    if several:
        found = {
            "strategy": DDPStrategy(find_unused_parameters=unused),
            "devices": devices if isinstance(devices, list) else n_local(),
            "num_nodes": world_size() // n_local(),
        }
    return pl.Trainer(
        accelerator=device_type(cfg.trainer.accelerator),
        precision=cfg.trainer.precision,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        sync_batchnorm=cfg.trainer.sync_batchnorm and several,
        deterministic=cfg.trainer.deterministic,
        check_val_every_n_epoch=cfg.trainer.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        # Each epoch has a new loader, with its own batches.
        reload_dataloaders_every_n_epochs=1,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[*callbacks, GradientGuard(cfg.trainer.nonfinite, cfg.trainer.max_gradient_ratio)],
        plugins=[*plugins, environment()],
        **found,
        **options,
    )


def train_stage(
    cfg: DictConfig, name: str, stage: DictConfig, module: HashingModule, data: FaceDataModule, folder: Path
) -> None:
    """Train a stage, or continue it where it was stopped, and write the model of its best checkpoint to its folder.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        name: name of the stage.
        stage: options of the stage.
        module: trained in place.
        data: batches of the stage.
        folder: folder of the stage.
    """
    best = StageCheckpoint(folder, data.has_val)
    resumes = run_on_rank_zero(_tidy, folder, best.last)
    module.hasher.lay_out(torch.channels_last if cfg.trainer.channels_last else torch.contiguous_format)
    if cfg.trainer.compile is not None:  # for this stage only: compiled code is not saved
        module.hasher.encoder.compile(backend=cfg.trainer.compile)
    n_steps = -(-len(data.train_dataloader()) // cfg.trainer.accumulate_grad_batches)
    interactive = sys.stdout.isatty() and not console.quiet
    loggers = [start_fault_tolerant(logger, name, console.print) for logger in (cfg.logger or {}).values()]
    trainer = build_trainer(
        cfg,
        default_root_dir=folder,
        max_epochs=stage.epochs if stage.max_steps is None else -(-stage.max_steps // n_steps),
        max_steps=-1 if stage.max_steps is None else stage.max_steps,
        limit_val_batches=1.0 if data.has_val else 0,
        # So that the CSV log also has rows for a short stage.
        log_every_n_steps=min(10, n_steps, stage.max_steps or n_steps),
        logger=[CSVLogger(folder, name="", version=""), *loggers],
        callbacks=[best, RichProgressBar() if interactive else _EpochLines(name), SeedEpochs(data.seed)],
        plugins=[AtomicCheckpointIO()],
        # In pretraining the head has no gradient; with single images the clip branch has none.
        unused=not module.train_hash or not data.people or _has_custom_parts(module),
        enable_progress_bar=interactive,
    )
    # With max_steps, Lightning would continue a finished epoch after its last batch: a resumed run would skip an epoch.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    console.print(f"{name}: {'continues' if resumes else 'starts'}, {n_steps} steps per epoch")
    _fit(trainer, module, data, best, resumes)
    run_on_rank_zero(_finish, best, module.hasher.trust, folder)


def _fit(
    trainer: pl.Trainer, module: HashingModule, data: FaceDataModule, best: StageCheckpoint, resumes: bool
) -> None:
    """Train, and turn Lightning's errors into messages.

    Raises:
        UserError: if a file cannot be written, or the stage cannot be resumed.
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: if something else ended the process.
    """
    folder = best.last.parent
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=best.last if resumes else None, weights_only=True)
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename or folder}; the checkpoints are intact. "
            f"Continue from the last one with facereel train resume={folder.parent}"
        ) from error
    except Exception as error:
        if best.has_started or not resumes or isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"Cannot resume from {best.last}: {reason}. Delete it to train {folder.name} again.") from error
    except SystemExit:
        # This is how Lightning ends after Ctrl-C; it ignores the signal from then on.
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _seed(cfg: DictConfig, place: int) -> int:
    return int(cfg.seed) + 1_000_003 * place  # different draws in each stage


def _has_custom_parts(module: HashingModule) -> bool:
    """Return whether a part is a class defined by the user, which may have parameters without a gradient."""
    parts = (module.hasher.encoder, module.hasher.pooling, module.hasher.head, module.loss)
    return any(not type(part).__module__.startswith("facereel.") for part in parts)


def _tidy(folder: Path, last: Path) -> bool:
    """Prepare the folder of a stage, and rename the log of an interrupted run: Lightning's CSV logger starts a new one.

    Returns:
        Whether there is a checkpoint to resume from.
    """
    remove_unfinished(folder)
    log = folder / "metrics.csv"
    if log.exists():
        n = 1
        while (kept := log.with_name(f"metrics-before-resume-{n}.csv")).exists():
            n += 1
        log.rename(kept)
    return last.exists()


def _finish(best: StageCheckpoint, trust: tuple[str, ...], folder: Path) -> None:
    """Write the model of the stage, then mark the stage as done."""
    VideoHasher.load(best.best_model_path or best.last, trust=trust).save(folder / "model")
    score = None if best.best_model_score is None else float(best.best_model_score)
    with atomic_write(folder / DONE_FILE) as path:
        path.write_text(json.dumps({"val/mAP": score}), encoding="utf-8")
    if best.is_terminated:
        raise best.termination("is done")


class _EpochLines(Callback):
    """Print one line per epoch if there is no terminal for a progress bar."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: trainer.callback_metrics.get(name) for name in ("train/loss", "val/mAP")}
        text = ", ".join(f"{name} {float(value):.3f}" for name, value in metrics.items() if value is not None)
        seconds = time.perf_counter() - self.started
        console.print(f"{self.stage}: epoch {trainer.current_epoch + 1}, {text}, {seconds:.0f} s")


def _filled(part: DictConfig, known: dict[str, int]) -> DictConfig:
    """Return a part with its ??? values filled in, which only the data or the model determines."""
    part = part.copy()
    for name, value in known.items():
        if OmegaConf.is_missing(part, name):
            part[name] = value
    return part
