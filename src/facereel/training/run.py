"""The train command: read, split, train stage by stage, evaluate; resumable."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from torchvision.transforms import v2

from facereel.environment import hardware, versions
from facereel.errors import UserError
from facereel.evaluation.protocols import Split
from facereel.evaluation.run import evaluate_model, faces_from_config, split_from_config
from facereel.files import write_beside
from facereel.models import VideoHasher
from facereel.training.checkpoints import WholeFileIO
from facereel.training.datamodule import FaceDataModule
from facereel.training.module import HashingModule

console = Console(highlight=False, soft_wrap=True)


def train(cfg: DictConfig, out: Path, given: dict[str, Any], resumed: bool = False) -> dict[str, Any]:
    """Train a model as configured and evaluate it.

    Args:
        cfg: as composed from configs/train.yaml.
        out: the run's folder. A run found there is continued if its configuration is the same, or if `resumed`.
        given: the overrides and the choices of groups, saved for `resume` and `facereel evaluate`.
        resumed: continue the run although its configuration differs.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: for a mistake in the configuration or the data.
    """
    _quieten_lightning()
    cfg.out = str(out)  # of a sweep, the job's own folder
    if not resumed:
        _refuse_another_run(cfg, out)
    started = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    hasher = build_hasher(cfg)
    faces = faces_from_config(cfg.data)
    split_file = out / "split.json"
    split = Split.load(split_file, faces) if split_file.exists() else split_from_config(cfg, faces)
    if not split.train.clips:
        raise UserError(f"protocol={split.protocol} leaves nothing to train on; it is for facereel evaluate")
    out.mkdir(parents=True, exist_ok=True)
    _save_run(cfg, out, given, split)
    console.print(f"[bold]{cfg.name}[/] in {out}")
    console.print(f"data: {faces.summary()}")
    console.print(_split_summary(split))
    for line in (*faces.skipped.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}")
    stages = {name: stage for name, stage in cfg.stages.items() if stage is not None and _length(stage) > 0}
    n_done = sum((out / name / "model").is_dir() for name in stages)
    for i, (name, stage) in enumerate(stages.items()):
        folder = out / name
        if i < n_done:
            if i == n_done - 1:
                hasher.load_state_dict(VideoHasher.load(folder / "model", trust=hasher.trust).state_dict())
                console.print(f"{name}: done before")
            continue
        _train_stage(cfg, name, stage, hasher, faces, split, folder)
    _finish_wandb()
    hasher.eval()
    hasher.save(out / "model")
    minutes = (time.perf_counter() - started) / 60
    console.print(f"trained in {minutes:.1f} minutes; evaluating")
    return evaluate_model(
        hasher, faces, split, out, seed=cfg.seed, weights=weights_of(cfg), device=_device(cfg), compared=cfg.compare
    )


def build_hasher(cfg: DictConfig) -> VideoHasher:
    """Build the model of a configuration, from the weights of an earlier run if `init_from` names one.

    Raises:
        UserError: if the earlier run has another encoder.
    """
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("encoder", "pooling", "head")}
    preprocess = {"_target_": "facereel.models.Preprocess", "size": cfg.data.size, "grey": cfg.data.grey}
    # The configuration is the user's own, so it may name any class; a checkpoint that is loaded may not.
    modules = tuple(str(part["_target_"]).rpartition(".")[0] for part in parts.values())  # type: ignore[index,call-overload]
    hasher = VideoHasher({"preprocess": preprocess, **parts}, trust=modules)
    if cfg.init_from is not None:
        earlier = VideoHasher.load(cfg.init_from, trust=modules)
        try:
            hasher.encoder.load_state_dict(earlier.encoder.state_dict())
        except RuntimeError as error:
            raise UserError(f"init_from={cfg.init_from}: its encoder is not the one configured here") from error
    return hasher


def weights_of(cfg: DictConfig) -> str:
    """Say what the training started from, for metrics.json."""
    if cfg.init_from is not None:
        return f"encoder from {cfg.init_from}"
    weights = cfg.encoder.get("weights")
    return f"encoder from {weights}" if weights else "none: random initialisation"


def _train_stage(
    cfg: DictConfig, name: str, stage: DictConfig, hasher: VideoHasher, faces: Any, split: Split, folder: Path
) -> None:
    trains_codes = bool(stage.trains_codes)
    pictures = cfg.augment.pictures
    data = FaceDataModule(
        faces,
        split,
        seed=cfg.seed,
        trains_codes=trains_codes,
        **cfg.batch,
        transform=v2.Compose([instantiate(t) for t in pictures]) if pictures else None,
        num_workers=cfg.trainer.num_workers,
    )
    known = {"n_people": len(faces.people), "dim": hasher.encoder.dim, "n_bits": hasher.n_bits}
    features = cfg.augment.features if trains_codes else None
    module = HashingModule(
        hasher,
        instantiate(_filled(stage.loss, known)),
        instantiate(stage.optimizer, _partial_=True),
        lr=stage.lr,
        head_lr_factor=stage.head_lr_factor,
        schedule=stage.schedule,
        trains_codes=trains_codes,
        freeze_batch_norm=stage.freeze_batch_norm,
        feature_augment=instantiate(_filled(features, known)) if features else None,
    )
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor="val/mAP" if data.has_val else None,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    interactive = sys.stdout.isatty()
    progress: Callback = RichProgressBar() if interactive else _EpochLines(name)
    last = folder / "last.ckpt"
    _keep_earlier_log(folder / "metrics.csv")
    n_steps = len(data.train_dataloader())
    loggers = [
        CSVLogger(folder, name="", version=""),
        *(instantiate(logger, prefix=name) for logger in (cfg.logger or {}).values()),
    ]
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=stage.epochs if stage.max_steps is None else -(-stage.max_steps // n_steps),
        max_steps=-1 if stage.max_steps is None else stage.max_steps,
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        precision=cfg.trainer.precision,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        deterministic=cfg.trainer.deterministic,
        check_val_every_n_epoch=cfg.trainer.check_val_every_n_epoch,
        limit_val_batches=1.0 if data.has_val else 0,
        num_sanity_val_steps=0,
        # The CSV log holds a short stage too.
        log_every_n_steps=min(10, n_steps, stage.max_steps or n_steps),
        logger=loggers,
        callbacks=[best, progress],
        plugins=[WholeFileIO()],
        enable_progress_bar=interactive,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    console.print(
        f"{name}: {'continues' if last.exists() else 'starts'}, {len(data.train_dataloader())} steps an epoch"
    )
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    chosen = best.best_model_path or str(last)
    hasher.load_state_dict(VideoHasher.load(chosen, trust=hasher.trust).state_dict())
    hasher.save(folder / "model")


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
    part = part.copy()
    for name, value in known.items():
        if OmegaConf.is_missing(part, name):
            part[name] = value
    return part


def _length(stage: DictConfig) -> int:
    return int(stage.epochs if stage.max_steps is None else stage.max_steps)


def _device(cfg: DictConfig) -> torch.device:
    if cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def _refuse_another_run(cfg: DictConfig, out: Path) -> None:
    saved = out / "config.yaml"
    if saved.exists() and saved.read_text(encoding="utf-8") != OmegaConf.to_yaml(cfg, resolve=True):
        raise UserError(
            f"out={out} holds a run with another configuration: choose another folder, or resume={out} to continue it"
        )


def _finish_wandb() -> None:
    """Close the run that the loggers of all stages share, so that a sweep's next job opens its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _save_run(cfg: DictConfig, out: Path, given: dict[str, Any], split: Split) -> None:
    texts = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "overrides.json": json.dumps(given, indent=1),
        "versions.json": json.dumps(
            {"versions": versions(), "hardware": hardware(), "weights": weights_of(cfg)}, indent=1
        ),
    }
    for name, text in texts.items():
        with write_beside(out / name) as path:
            path.write_text(text, encoding="utf-8")
    if not (out / "split.json").exists():
        split.save(out / "split.json")


def _split_summary(split: Split) -> str:
    parts = (("train", split.train), ("val", split.val), ("test", split.test))
    counts = ", ".join(f"{name} {len(part.clips)} clips and {len(part.stills)} stills" for name, part in parts)
    return f"split: {split.protocol}, seed {split.seed}, {counts}, sha256 {split.sha256[:12]}"


def _quieten_lightning() -> None:
    """Keep what a user of facereel can act on; what is left out here concerns Lightning or was decided on purpose."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*could not find the monitored key.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)
