"""The evaluate command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from facereel.data.load import outer_margin
from facereel.errors import UserError
from facereel.evaluation.run import (
    console,
    evaluate_model,
    faces_from_config,
    prepared_folder,
    shortlist_from_config,
    split_from_config,
    starting_encoder,
)
from facereel.evaluation.split import LARGEST_SPLIT, Split
from facereel.files import inside
from facereel.models import VideoHasher
from facereel.saved_run import read_config, read_record


def evaluate(cfg: DictConfig, run: Path | None, own_split: bool) -> dict[str, Any]:
    """Evaluate a checkpoint as configured.

    Args:
        cfg: as composed from configs/evaluate.yaml.
        run: the folder of the run that the checkpoint lies in, or None.
        own_split: use the split saved in the run; otherwise one is drawn.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: for a mistake in the configuration, the checkpoint or the data.
    """
    shortlist = shortlist_from_config(cfg)
    device = _device(cfg.device)
    hasher = VideoHasher.load(cfg.checkpoint)
    # The model's own input size, alignment and grey handling decide how pictures are read.
    takes = hasher.preprocess
    cfg.data.size, cfg.data.grey = takes.size, takes.grey
    if cfg.data.manifest is None:
        cfg.data.margin = outer_margin(takes.margin, takes.shift)
        # Rounding must not add a pixel.
        cfg.data.size = math.ceil(takes.size * cfg.data.margin / takes.margin - 1e-6)
    faces = faces_from_config(cfg.data, cfg.seed, takes)
    console.print(f"data: {faces.summary()}")
    saved = run / "split.json" if run is not None and own_split else None
    split = split_from_config(cfg, faces) if saved is None else Split.load(saved, faces)
    for line in (*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}")
    weights = "unknown: the checkpoint lies in no run"
    if run is not None:
        known = _seen_in_training(run, split)
        if known:
            console.print(f"note: {known} of the searched or asked items have names this run was trained or chosen on")
        weights = str(read_record(run, "versions.json", "weights")["weights"])
    out = Path(cfg.out) if cfg.out is not None else _new_folder(run, cfg, split)
    return evaluate_model(
        hasher,
        faces,
        split,
        out,
        seed=cfg.seed,
        weights=weights,
        device=device,
        compared=cfg.compare,
        shortlist=shortlist,
        start=_start(run, hasher) if run is not None and cfg.compare else None,
        manifest=prepared_folder(cfg.data),
    )


def _device(name: Any) -> torch.device:
    """The device of that name, on which a number has been: a GPU that is not there shows before the data is read."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(f"device={name}: must be auto, cpu, or what PyTorch has here, as cuda or mps") from error
    return device


def _start(run: Path, hasher: VideoHasher) -> VideoHasher | None:
    """The encoder as the run's training started, if its weights are still where they were."""
    config: Any = OmegaConf.to_container(read_config(run))
    try:
        return starting_encoder(config["encoder"], hasher, config["init_from"])
    except UserError as error:
        console.print(f"note: the encoder that training started from is not compared: {error}")
        return None


def _seen_in_training(run: Path, split: Split) -> int:
    content = read_record(run, "split.json", "train", "val", "pretrain_only", "sha256", largest=LARGEST_SPLIT)
    seen = {key for part in ("train", "val") for kind in ("clips", "stills") for key in content[part][kind]}
    seen.update(content["pretrain_only"])
    own = content["sha256"] == split.sha256
    # Of the run's own split only the queries must be new; its gallery is train.
    parts = [split.test] if own or not split.searches_train else [split.test, split.train]
    keys = [key for part in parts for names in part.keys().values() for key in names]
    return sum(key in seen for key in keys)


def _new_folder(run: Path | None, cfg: DictConfig, split: Split) -> Path:
    """A folder for this data set and protocol that does not exist yet."""
    if run is None:
        path = Path(cfg.checkpoint)
        run = path if path.is_dir() else path.parent
    name = f"{cfg.data.name}-{split.protocol}"
    folder, n = run / "evaluations" / name, 1
    while folder.exists():
        n += 1
        folder = run / "evaluations" / f"{name}-{n}"
    return inside(run, folder)  # whatever a stranger's run calls its data
