"""The training pipeline: read the data, split it, train stage by stage, and evaluate. A run can be resumed."""

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
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from facereel.config.saved_run import first_difference, read_config
from facereel.data import FaceSet
from facereel.data.select import evenly_spaced
from facereel.data.source import prepared_folder, read_faces
from facereel.errors import UserError
from facereel.evaluation.baselines import check_fit, fit_head, fit_pooling, starting_encoder
from facereel.evaluation.encode import encode_part
from facereel.evaluation.evaluate import EvaluationOptions, evaluate_model
from facereel.evaluation.features import split_features
from facereel.evaluation.protocols import SavedSplit
from facereel.evaluation.split import Part, Split
from facereel.evaluation.write import print_evaluation, write_evaluation
from facereel.models import (
    FittedHead,
    OnnxEncoder,
    ProjectedPooling,
    RecognizabilityPooling,
    SeparateHeads,
    VideoHasher,
)
from facereel.parallel.distributed import broadcast_parameters, n_devices, run_on_rank_zero, world_size
from facereel.retrieval import CodeIndex
from facereel.storage.files import atomic_write
from facereel.system.console import console
from facereel.system.device import choose_device, has_fast_bfloat16
from facereel.system.environment import commit, hardware, versions
from facereel.training.loggers import finish_wandb
from facereel.training.stage import DONE_FILE, build_parts, build_trainer, init_proxies, train_stage

# The keys that determine the data and the model; the others may change when a run is resumed.
RESUME_KEEPS = ("data", "protocol", "seed", "preprocess", "encoder", "pooling", "head", "init_from")

# The scale of separate hash layers is computed from this number of training stills and of training clips.
_N_CALIBRATION = 256

# The groups from which a model is built.
_PARTS = ("preprocess", "encoder", "pooling", "head")

_RANDOM_WEIGHTS = "none: random initialization"


def train(cfg: DictConfig, out: Path, given: dict[str, Any], resumed: bool = False) -> dict[str, Any]:
    """Train a model as configured and evaluate it.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        out: folder of the run. An existing run in it is continued if it has the same configuration, or if `resumed`.
        given: the overrides and the choices of groups, saved for resuming and for `facereel evaluate`.
        resumed: continue the run; schedule, losses and trainer may differ from those with which it was started.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: if there is a mistake in the configuration or the data.
    """
    quieten_lightning()
    if world_size() == 1 and n_devices(cfg.trainer) > 1:
        raise UserError(f"trainer.devices={cfg.trainer.devices}: a single process, such as a sweep job, has one device")
    cfg.out = str(out)  # in a sweep, the folder of the job
    _refuse_another_run(cfg, out, RESUME_KEEPS if resumed else None)
    started = time.perf_counter()
    split_file = out / "split.json"
    protocol = SavedSplit(split_file) if split_file.exists() else instantiate(cfg.protocol)
    # Names in a file are checked before images are read, which may take a long time.
    check = (lambda faces: protocol.split(faces, cfg.seed)) if getattr(protocol, "names_items", False) else None
    faces = read_faces(cfg.data, cfg.seed, cfg.preprocess, check)
    split: Split = protocol.split(faces, cfg.seed)
    if not split.train.clips:
        raise UserError(f"protocol={split.protocol} leaves nothing to train on; use it with facereel evaluate")
    stages = active_stages(cfg)
    hasher = _set_up(cfg, stages, faces, split)
    broadcast_parameters(hasher)
    weights = describe_weights(cfg, hasher)
    run_on_rank_zero(_save_run, cfg, out, given, split, weights)
    _print_start(cfg, out, faces, split)
    fits_first = isinstance(hasher.head, FittedHead) and all(stage.train_hash for stage in stages.values())
    if fits_first and weights == _RANDOM_WEIGHTS:
        console.print("note: the encoder has random weights; use encoder.weights=FILE or init_from=RUN to change that")
    if str(cfg.trainer.precision).startswith("bf16") and not has_fast_bfloat16(choose_device(cfg.trainer.accelerator)):
        console.print(
            f"note: this processor has no bfloat16 instructions: trainer.precision={cfg.trainer.precision} may be 10 "
            "times slower than 32-true"
        )
    training = _StagedTraining(cfg, out, hasher, faces, split)
    training.run(stages)
    finish_wandb(console.print)
    hasher.eval()
    _calibrate(hasher, faces, split, choose_device(cfg.trainer.accelerator), training.features)
    run_on_rank_zero(hasher.save, out / "model")
    console.print(f"trained in {(time.perf_counter() - started) / 60:.1f} minutes; evaluating")
    options = EvaluationOptions(
        seed=cfg.seed,
        weights=weights,
        device=choose_device(cfg.trainer.accelerator),
        baselines=cfg.baselines,
        rerank_k=cfg.rerank_k,
        # Only if it is compared: the weights file may no longer exist.
        start=starting_encoder(hasher.config["encoder"], hasher, cfg.init_from) if cfg.baselines else None,
        features_folder=prepared_folder(cfg.data),
    )
    evaluation = evaluate_model(hasher, faces, split, options, features=training.features)
    run_on_rank_zero(write_evaluation, evaluation, out)
    print_evaluation(evaluation, out)
    return evaluation.metrics


def _calibrate(
    hasher: VideoHasher, faces: FaceSet, split: Split, device: torch.device, features: FaceSet | None
) -> None:
    """Bring the outputs of separate hash layers to the same scale, using some training stills and clips."""
    if not isinstance(hasher.head, SeparateHeads):
        return
    clips, stills = split.train.clips, split.train.stills
    some = Part(evenly_spaced(clips, _N_CALIBRATION), evenly_spaced(stills, _N_CALIBRATION))
    encoded = encode_part(hasher, faces, some, device, features=features)
    none = torch.zeros(0, hasher.n_bits)
    still, clip = (encoded[kind].scores if kind in encoded else none for kind in ("still", "clip"))
    hasher.head.calibrate(still, clip)


class _StagedTraining:
    """A model that is trained in place, through the stages of a run."""

    def __init__(self, cfg: DictConfig, out: Path, hasher: VideoHasher, faces: FaceSet, split: Split) -> None:
        self.cfg, self.out, self.hasher, self.faces, self.split = cfg, out, hasher, faces, split
        self.features: FaceSet | None = None
        """Features of the current encoder, if they were needed."""
        self._has_parts_to_fit = isinstance(hasher.head, FittedHead) or isinstance(
            hasher.pooling, ProjectedPooling | RecognizabilityPooling
        )
        self._best_score: float | None = None

    def run(self, stages: dict[str, DictConfig]) -> None:
        """Train the stages that are not done, one after the other, and fit the parts that can be fitted."""
        for place, (name, stage) in enumerate(stages.items()):
            if stage.train_hash:
                self._fit_parts()
            if stage.freeze_encoder:  # also if the stage is done: after the last stage, the evaluation uses features
                self._encode()
            if run_on_rank_zero((self.out / name / DONE_FILE).exists):
                console.print(f"{name}: already done")
            else:
                self._train(place, name, stage)
            self._take_over(name, stage)
        self._fit_parts()

    def _encode(self) -> FaceSet:
        if self.features is None:
            device, folder = choose_device(self.cfg.trainer.accelerator), prepared_folder(self.cfg.data)
            self.features = split_features(self.hasher, self.faces, self.split, device, folder)
        return self.features

    def _fit_parts(self) -> None:
        """Fit the pooling and the head once, if they can be fitted."""
        if self._has_parts_to_fit:
            features = self._encode()
            fit_pooling(self.hasher, features, self.split)
            if isinstance(self.hasher.head, FittedHead):
                fit_head(self.hasher, features, self.split, self.cfg.seed)
            broadcast_parameters(self.hasher)
            self._has_parts_to_fit = False

    def _train(self, place: int, name: str, stage: DictConfig) -> None:
        source = self._encode() if stage.freeze_encoder else self.faces
        module, data = build_parts(self.cfg, place, stage, copy.deepcopy(self.hasher), source, self.split)
        if stage.init_proxies:
            init_proxies(module.loss, self._encode(), data)
        train_stage(self.cfg, name, stage, module, data, self.out / name)

    def _take_over(self, name: str, stage: DictConfig) -> None:
        """Use the weights of the stage, unless its codes are worse than those of the previous stage."""
        folder = self.out / name
        score = json.loads(run_on_rank_zero(_read, folder / DONE_FILE))["val/mAP"]
        best = self._best_score
        if stage.train_hash and score is not None and best is not None and score < best:
            console.print(f"{name}: val/mAP {score:.3f} is below {best:.3f} of the previous stage: its model is kept")
            return
        self.hasher.load_state_dict(run_on_rank_zero(_weights, folder / "model", self.hasher.trust))
        self._best_score = score if stage.train_hash else None
        if not stage.freeze_encoder:
            self.features = None


def _set_up(cfg: DictConfig, stages: dict[str, DictConfig], faces: FaceSet, split: Split) -> VideoHasher:
    """Build the model and every stage once, so that a mistake in the last stage is found before the first one runs.

    Returns:
        The model.

    Raises:
        InstantiationException: if a class of the configuration cannot be built.
        UserError: if the parts do not fit together.
    """
    try:
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        hasher = build_hasher(cfg)
        dry_run(hasher, cfg.data.size)
        CodeIndex(hasher.n_bits)
        check_fit(hasher, split)
        _check_frozen(hasher, stages)
        for place, stage in enumerate(stages.values()):
            module, data = build_parts(cfg, place, stage, hasher, faces, split)
            module.build_optimizer()
            data.train_dataloader()
            if data.transform:
                data.transform(torch.zeros(1, 3, cfg.data.size, cfg.data.size, dtype=torch.uint8))
        build_trainer(cfg, logger=False, enable_checkpointing=False)
    except InstantiationException:
        raise
    except (ValueError, RuntimeError, AssertionError, ModuleNotFoundError, MisconfigurationException) as error:
        raise UserError(f"the run cannot be set up: {str(error).strip().splitlines()[0]}") from error
    return hasher


def _check_frozen(hasher: VideoHasher, stages: dict[str, DictConfig]) -> None:
    """Check that no stage trains an encoder that cannot be trained.

    Raises:
        UserError: if one does.
    """
    for name, stage in stages.items():
        if isinstance(hasher.encoder, OnnxEncoder) and not stage.freeze_encoder:
            raise UserError(
                f"stages.{name}: OnnxEncoder cannot be trained: set stages.{name}.freeze_encoder=true, or skip the "
                f"stage with stages.{name}=null; experiment=dhh_frozen does both"
            )


def build_hasher(cfg: DictConfig) -> VideoHasher:
    """Build the model of a configuration, with the encoder weights of the run `init_from` if that is set.

    Args:
        cfg: configuration, as composed from configs/train.yaml.

    Returns:
        The model.

    Raises:
        UserError: if the earlier run has another encoder.
    """
    modules = part_modules(cfg)
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in _PARTS}
    hasher = VideoHasher(parts, trust=modules)
    if cfg.init_from is not None:
        try:
            earlier = VideoHasher.load(cfg.init_from, trust=modules)
            hasher.encoder.load_state_dict(earlier.encoder.state_dict())
        except UserError as error:
            raise UserError(f"init_from={cfg.init_from}: {error}") from error
        except RuntimeError as error:
            raise UserError(f"init_from={cfg.init_from}: its encoder differs from the one configured here") from error
    return hasher


def part_modules(cfg: DictConfig) -> tuple[str, ...]:
    """Return the modules of the model's parts, to trust them.

    The user writes the configuration, so it may name any class; a checkpoint may not.

    Args:
        cfg: configuration, as composed from configs/train.yaml.

    Returns:
        Names of modules.
    """
    return tuple(str(cfg[name]["_target_"]).rpartition(".")[0] for name in _PARTS)


def dry_run(hasher: VideoHasher, size: int) -> None:
    """Encode a blank still and clip, to check that the parts of a model fit each other and the image size.

    Args:
        hasher: the model.
        size: side of the images, in pixels.
    """
    hasher.encode_stills(torch.zeros(1, 3, size, size))
    hasher.encode_clips(torch.zeros(1, 2, 3, size, size))


def describe_weights(cfg: DictConfig, hasher: VideoHasher) -> str:
    """Describe the initial weights for metrics.json, by name and content, without their folder.

    Args:
        cfg: configuration, as composed from configs/train.yaml.
        hasher: the model before training.

    Returns:
        One line of text.
    """
    start = cfg.init_from or cfg.encoder.get("weights")
    if not start:
        return _RANDOM_WEIGHTS
    kind = str(cfg.encoder["_target_"]).rpartition(".")[2]
    return f"{kind} from {Path(start).name}, sha256 {hasher.encoder_fingerprint()[:12]}"


def active_stages(cfg: DictConfig) -> dict[str, DictConfig]:
    """Return the stages that have steps to train, by name.

    Raises:
        UserError: if options of a stage contradict each other.
    """
    # debug=tiny also sets max_steps of stages that an experiment does not have: these have no other key.
    named = {name: stage for name, stage in cfg.stages.items() if stage is not None and set(stage) != {"max_steps"}}
    stages = {
        name: stage for name, stage in named.items() if (stage.epochs if stage.max_steps is None else stage.max_steps)
    }
    for name, stage in stages.items():
        if stage.freeze_encoder and not stage.train_hash:
            raise UserError(
                f"stages.{name}: freeze_encoder=true and train_hash=false leave nothing to train; change one of them"
            )
        if stage.init_proxies and stage.train_hash:
            raise UserError(f"stages.{name}.init_proxies=true: only for a stage with train_hash=false")
    return stages


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _weights(folder: Path, trust: tuple[str, ...]) -> dict[str, Any]:
    return VideoHasher.load(folder, trust=trust).state_dict()


def _refuse_another_run(cfg: DictConfig, out: Path, keys: tuple[str, ...] | None) -> None:
    """Compare the configuration with that of a run in `out`: these keys, or all keys if None.

    Raises:
        UserError: if they differ.
    """
    if not (out / "config.yaml").exists():
        return
    saved: Any = OmegaConf.to_container(read_config(out))
    new: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    kept = keys or tuple(dict.fromkeys([*saved, *new]))
    changed = first_difference({key: saved.get(key) for key in kept}, {key: new.get(key) for key in kept})
    if changed and keys is None:
        raise UserError(
            f"out={out} contains a run with another configuration ({changed}): choose another folder, or continue that "
            f"run with resume={out}"
        )
    if changed:
        raise UserError(f"Cannot resume {out}: it was trained with {changed}. Keep that, or choose another out=DIR.")


def _save_run(cfg: DictConfig, out: Path, given: dict[str, Any], split: Split, weights: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {"versions": versions(), "commit": commit(), "hardware": hardware(), "weights": weights}
    texts = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "overrides.json": json.dumps(given, indent=1),
        "versions.json": json.dumps(record, indent=1),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as path:
            path.write_text(text, encoding="utf-8")
    if not (out / "split.json").exists():
        split.save(out / "split.json")


def _print_start(cfg: DictConfig, out: Path, faces: FaceSet, split: Split) -> None:
    counts = ", ".join(
        f"{name} {len(part.clips)} clips and {len(part.stills)} stills" for name, part in split.parts.items()
    )
    console.print(f"{cfg.name} in {out}")
    console.print(f"data: {faces.summary()}")
    console.print(f"split: {split.protocol}, seed {split.seed}, {counts}, sha256 {split.sha256[:12]}")
    for line in (*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}")


def quieten_lightning() -> None:
    """Silence messages of Lightning that are not actionable for the user or that concern deliberate choices."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*could not find the monitored key.*",
        ".*in eval mode at the start of training.*",
        # An EpochLoader continues with the next batch.
        ".*ended before the epoch ended.*",
        # All processes log the same metrics.
        ".*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
