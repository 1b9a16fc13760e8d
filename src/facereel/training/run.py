"""The train command: read, split, train stage by stage, evaluate; resumable."""

from __future__ import annotations

import copy
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from facereel.console import Console
from facereel.data import FaceSet
from facereel.environment import commit, hardware, versions
from facereel.errors import UserError
from facereel.evaluation.baselines import check_fit, fit_head
from facereel.evaluation.run import (
    evaluate_model,
    faces_from_config,
    features_of,
    prepared_folder,
    shortlist_from_config,
    split_from_config,
    starting_encoder,
)
from facereel.evaluation.split import Split
from facereel.files import write_beside
from facereel.models import FittedHead, VideoHasher
from facereel.processes import alike, from_first, n_devices, world_size
from facereel.retrieval import CodeIndex
from facereel.saved_run import first_difference, read_config
from facereel.training.loggers import finish_wandb
from facereel.training.stage import DONE_FILE, build_parts, build_trainer, start_from_means, train_stage

# What decides the data and the model; the rest may change when a run is continued.
RESUME_KEEPS = ("data", "protocol", "seed", "preprocess", "encoder", "pooling", "head", "init_from")

console = Console(highlight=False, soft_wrap=True)


def train(cfg: DictConfig, out: Path, given: dict[str, Any], resumed: bool = False) -> dict[str, Any]:
    """Train a model as configured and evaluate it.

    Args:
        cfg: as composed from configs/train.yaml.
        out: the run's folder. A run found there is continued if it has the same configuration, or if `resumed`.
        given: the overrides and the choices of groups, saved for `resume` and `facereel evaluate`.
        resumed: continue the run; schedule, losses and trainer may differ from those it was begun with.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: for a mistake in the configuration or the data.
    """
    _quieten_lightning()
    if world_size() == 1 and n_devices(cfg.trainer) > 1:
        raise UserError(f"trainer.devices={cfg.trainer.devices}: one process has one device, as each run of a sweep")
    cfg.out = str(out)  # of a sweep, the job's own folder
    _refuse_another_run(cfg, out, RESUME_KEEPS if resumed else None)
    shortlist = shortlist_from_config(cfg)
    started = time.perf_counter()
    faces = faces_from_config(cfg.data, cfg.seed, cfg.preprocess)
    split_file = out / "split.json"
    split = Split.load(split_file, faces) if split_file.exists() else split_from_config(cfg, faces)
    if not split.train.clips:
        raise UserError(f"protocol={split.protocol} leaves nothing to train on; it is for facereel evaluate")
    stages = {name: stage for name, stage in cfg.stages.items() if not _left_out(stage)}
    _check_stages(stages)
    # What can fail is set up once now, so that a mistake in the last stage does not show after hours of the first.
    try:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        hasher = build_hasher(cfg)
        _dry_run(hasher, cfg.data.size)
        CodeIndex(hasher.n_bits)
        check_fit(hasher, split)
        for i, stage in enumerate(stages.values()):
            module, data = build_parts(cfg, i, stage, hasher, faces, split)
            module.build_optimizer()
            data.train_dataloader()
            if data.transform:
                data.transform(torch.zeros(1, 3, cfg.data.size, cfg.data.size, dtype=torch.uint8))
        build_trainer(cfg, logger=False, enable_checkpointing=False)
    except InstantiationException:
        raise
    except (ValueError, RuntimeError, AssertionError, ModuleNotFoundError, MisconfigurationException) as error:
        raise UserError(f"the run cannot be set up: {str(error).strip().splitlines()[0]}") from error
    alike(hasher)
    weights = weights_of(cfg, hasher)
    from_first(_save_run, cfg, out, given, split, weights)
    console.print(f"[bold]{cfg.name}[/] in {out}")
    console.print(f"data: {faces.summary()}")
    console.print(_split_summary(split))
    for line in (*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}", markup=False)
    best_of_codes: float | None = None
    features: FaceSet | None = None  # of the encoder as it is now, if something needed them
    to_fit = isinstance(hasher.head, FittedHead)
    if to_fit and weights.startswith("none") and all(stage.trains_codes for stage in stages.values()):
        console.print("note: the encoder has random weights; encoder.weights=FILE or init_from=RUN gives it others")
    for i, (name, stage) in enumerate(stages.items()):
        folder = out / name
        if to_fit and stage.trains_codes:
            features = features or _features(cfg, hasher, faces, split)
            fit_head(hasher, features, split, cfg.seed)
            alike(hasher)
            to_fit = False
        if stage.freeze_encoder:  # also of a stage that is done: the evaluation takes them, if it was the last
            features = features or _features(cfg, hasher, faces, split)
        if from_first((folder / DONE_FILE).exists):
            console.print(f"{name}: done before")
        else:
            source = features if stage.freeze_encoder and features is not None else faces
            module, data = build_parts(cfg, i, stage, copy.deepcopy(hasher), source, split)
            if stage.start_from_means:
                features = features or _features(cfg, hasher, faces, split)
                start_from_means(module.loss, features, data)
            train_stage(cfg, name, stage, module, data, folder)
        score = json.loads(from_first(_read, folder / DONE_FILE))["val/mAP"]
        if stage.trains_codes and score is not None and best_of_codes is not None and score < best_of_codes:
            console.print(
                f"{name}: val/mAP {score:.3f} is below {best_of_codes:.3f} of the stage before, whose model is kept"
            )
            continue
        hasher.load_state_dict(from_first(_weights, folder / "model", hasher.trust))
        best_of_codes = score if stage.trains_codes else None
        features = features if stage.freeze_encoder else None
    if to_fit:
        features = features or _features(cfg, hasher, faces, split)
        fit_head(hasher, features, split, cfg.seed)
        alike(hasher)
    finish_wandb(console.print)
    hasher.eval()
    from_first(hasher.save, out / "model")
    minutes = (time.perf_counter() - started) / 60
    console.print(f"trained in {minutes:.1f} minutes; evaluating")
    return evaluate_model(
        hasher,
        faces,
        split,
        out,
        seed=cfg.seed,
        weights=weights,
        device=_device(cfg),
        compared=cfg.compare,
        shortlist=shortlist,
        features=features,
        # Only then: the weights' file need not be there any more.
        start=starting_encoder(hasher.config["encoder"], hasher, cfg.init_from) if cfg.compare else None,
        manifest=prepared_folder(cfg.data),
    )


def build_hasher(cfg: DictConfig) -> VideoHasher:
    """Build the model of a configuration, from the weights of an earlier run if `init_from` names one.

    Raises:
        UserError: if the earlier run has another encoder.
    """
    names = ("preprocess", "encoder", "pooling", "head")
    # The configuration is the user's own, so it may name any class; a checkpoint that is loaded may not.
    modules = tuple(str(cfg[name]["_target_"]).rpartition(".")[0] for name in names)
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in names}
    hasher = VideoHasher(parts, trust=modules)
    if cfg.init_from is not None:
        try:
            earlier = VideoHasher.load(cfg.init_from, trust=modules)
            hasher.encoder.load_state_dict(earlier.encoder.state_dict())
        except UserError as error:
            raise UserError(str(error).replace("checkpoint=", "init_from=", 1)) from error
        except RuntimeError as error:
            raise UserError(f"init_from={cfg.init_from}: its encoder is not the one configured here") from error
    return hasher


def weights_of(cfg: DictConfig, hasher: VideoHasher) -> str:
    """Say what the training started from, for metrics.json: by name and content, wherever the file lies."""
    start = cfg.init_from or cfg.encoder.get("weights")
    if not start:
        return "none: random initialisation"
    kind = str(cfg.encoder["_target_"]).rpartition(".")[2]
    return f"{kind} from {Path(start).name}, sha256 {hasher.encoder_fingerprint()[:12]}"


def _features(cfg: DictConfig, hasher: VideoHasher, faces: FaceSet, split: Split) -> FaceSet:
    return features_of(hasher, faces, split, _device(cfg), prepared_folder(cfg.data))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _weights(folder: Path, trust: tuple[str, ...]) -> dict[str, Any]:
    return VideoHasher.load(folder, trust=trust).state_dict()


def _check_stages(stages: dict[str, DictConfig]) -> None:
    """Refuse stages that cannot do what they are asked for."""
    for name, stage in stages.items():
        if stage.batches not in ("people", "pictures"):
            raise UserError(f"stages.{name}.batches={stage.batches}: must be people or pictures")
        if stage.freeze_encoder and not stage.trains_codes:
            raise UserError(f"stages.{name}: with a frozen encoder and no codes there is nothing to train")
        if stage.start_from_means and stage.trains_codes:
            raise UserError(f"stages.{name}.start_from_means=true: only for a stage that trains no codes")


def _dry_run(hasher: VideoHasher, size: int) -> None:
    """Encode one empty still and clip: whether the parts fit each other and the pictures' size."""
    hasher.encode_stills(torch.zeros(1, 3, size, size))
    hasher.encode_clips(torch.zeros(1, 2, 3, size, size))


def _left_out(stage: DictConfig | None) -> bool:
    # debug=tiny gives steps to stages that an experiment left out, too: they have nothing else.
    return stage is None or set(stage) == {"max_steps"} or _length(stage) == 0


def _length(stage: DictConfig) -> int:
    return int(stage.epochs if stage.max_steps is None else stage.max_steps)


def _device(cfg: DictConfig) -> torch.device:
    if cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def _refuse_another_run(cfg: DictConfig, out: Path, keys: tuple[str, ...] | None) -> None:
    """Compare with the configuration of a run that `out` holds: these keys, or if None all of it."""
    if not (out / "config.yaml").exists():
        return
    saved: Any = OmegaConf.to_container(read_config(out))
    new: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    kept = keys or tuple(dict.fromkeys([*saved, *new]))
    changed = first_difference({key: saved.get(key) for key in kept}, {key: new.get(key) for key in kept})
    if changed and keys is None:
        raise UserError(
            f"out={out} holds a run with another configuration ({changed}): choose another folder, or resume={out} to "
            "continue it"
        )
    if changed:
        raise UserError(
            f"Cannot resume {out}: it was trained with {changed}. Leave that as it was, or train in another folder "
            "with out=DIR."
        )


def _save_run(cfg: DictConfig, out: Path, given: dict[str, Any], split: Split, weights: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "overrides.json": json.dumps(given, indent=1),
        "versions.json": json.dumps(
            {"versions": versions(), "commit": commit(), "hardware": hardware(), "weights": weights}, indent=1
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
        # Ours goes on with the batch behind.
        ".*ended before the epoch ended.*",
        # All processes log the same figures.
        ".*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
