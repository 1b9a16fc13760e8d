"""The evaluate command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from facereel.cli.options import Trust
from facereel.errors import UserError
from facereel.system.console import console

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from facereel.evaluation.evaluate import Evaluation
    from facereel.evaluation.split import Split
    from facereel.models import VideoHasher


def evaluate_command(context: typer.Context, trust: Trust = None) -> None:
    """Evaluate a checkpoint. Data and protocol default to those of its run.

    Example: facereel evaluate checkpoint=RUN_DIR data=youtube_faces data.root=DIR protocol=leave_one_out
    """
    evaluate_overrides(context.args)


def evaluate_overrides(arguments: list[str]) -> tuple[dict[str, Any], Path]:
    """Evaluate a checkpoint.

    Args:
        arguments: overrides, including `checkpoint=PATH`.

    Returns:
        The content of metrics.json, and its folder.

    Raises:
        UserError: for a mistake in the overrides, the checkpoint or the data.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from facereel.config.build import check_arguments, check_paths, fill_from_manifest, inherited
    from facereel.config.compose import compose_config, one_line_errors
    from facereel.config.overrides import readable, refuse_options, take
    from facereel.config.saved_run import run_of

    refuse_options(arguments)
    with one_line_errors():
        given = fill_from_manifest([readable(argument) for argument in arguments])
        _, checkpoint = take(given, "checkpoint")
        if checkpoint is None:
            raise UserError("facereel evaluate needs checkpoint=PATH: the folder of a run, or a checkpoint file")
        run = run_of(Path(checkpoint))
        cfg = compose_config("evaluate", [*inherited(run, given), *given])
        chosen = any(argument.lstrip("+~").startswith(("data", "protocol", "seed")) for argument in given)
        own_split = run is not None and not chosen
        check_paths(cfg, own_split)
        check_arguments(OmegaConf.to_container(cfg))
        instantiate(cfg.protocol)
        return evaluate(cfg, run, own_split)


def evaluate(cfg: DictConfig, run: Path | None, own_split: bool) -> tuple[dict[str, Any], Path]:
    """Evaluate a checkpoint as configured.

    A mistake in the configuration, the checkpoint or the data is a `UserError`.

    Args:
        cfg: the configuration, composed from configs/evaluate.yaml.
        run: folder of the run that contains the checkpoint; None if there is no run.
        own_split: whether to use the split saved in the run; otherwise a new one is drawn.

    Returns:
        The content of metrics.json, and its folder.
    """
    from hydra.utils import instantiate

    from facereel.config.saved_run import read_record
    from facereel.data.crop_table import outer_margin
    from facereel.data.source import prepared_folder, read_faces
    from facereel.evaluation.evaluate import EvaluationOptions, evaluate_model
    from facereel.evaluation.protocols import SavedSplit
    from facereel.evaluation.write import print_evaluation, write_evaluation
    from facereel.models import VideoHasher
    from facereel.system.device import choose_device

    device = choose_device(cfg.device)
    hasher = VideoHasher.load(cfg.checkpoint)
    # The model's own input size, alignment and gray handling decide how images are read.
    takes = hasher.preprocess
    cfg.data.size, cfg.data.grayscale = takes.size, takes.grayscale
    if cfg.data.manifest is None:
        cfg.data.margin = outer_margin(takes.margin, takes.vertical_offset)
        # Rounding must not add a pixel.
        cfg.data.size = math.ceil(takes.size * cfg.data.margin / takes.margin - 1e-6)
    saved = run / "split.json" if run is not None and own_split else None
    protocol = instantiate(cfg.protocol) if saved is None else SavedSplit(saved)
    # Check the names in a split file before reading images, which may take long.
    check = (lambda faces: protocol.split(faces, cfg.seed)) if getattr(protocol, "names_items", False) else None
    faces = read_faces(cfg.data, cfg.seed, takes, check)
    console.print(f"data: {faces.summary()}")
    split: Split = protocol.split(faces, cfg.seed)
    for line in (*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}")
    weights = "unknown: the checkpoint is not in a run"
    if run is not None:
        known = _seen_in_training(run, split)
        if known:
            console.print(f"note: {known} queries and gallery items are in the training or val data of this run")
        weights = str(read_record(run, "versions.json", "weights")["weights"])
    out = Path(cfg.out) if cfg.out is not None else _new_folder(run, cfg, split)
    options = EvaluationOptions(
        seed=cfg.seed,
        weights=weights,
        device=device,
        baselines=cfg.baselines,
        rerank_k=cfg.rerank_k,
        start=_start(run, hasher) if run is not None and cfg.baselines else None,
        features_folder=prepared_folder(cfg.data),
    )
    evaluation = evaluate_model(hasher, faces, split, options)
    if split.gallery(split.test) is split.test and (clustering := _cluster(evaluation)):
        evaluation.metrics["clustering"] = clustering
    write_evaluation(evaluation, out)
    print_evaluation(evaluation, out)
    return evaluation.metrics, out


def _cluster(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return clustering metrics of the test clips' codes; None without FAISS, or without the task clip_to_clip.

    Groups are joined until their number equals that of the people, since a threshold would have to be chosen on other
    people.
    """
    from facereel.evaluation.clustering import clustering_metrics
    from facereel.functional import pack_codes
    from facereel.retrieval.clustering.linkage import cluster_tracks

    if "clip_to_clip" not in evaluation.results:
        return None
    clips = evaluation.results["clip_to_clip"].query
    people = clips.labels.numpy()
    try:
        groups = cluster_tracks(
            pack_codes(clips.codes).numpy(), clips.codes.shape[1], threshold=1.0, n_groups=len(set(people.tolist()))
        )
    except UserError as error:
        console.print(f"note: clips are not clustered: {error}")
        return None
    return {"stopped_at": "number of people", **clustering_metrics(people, groups)}


def _start(run: Path, hasher: VideoHasher) -> VideoHasher | None:
    """Return the encoder as it was before training; None if its weights are missing."""
    from omegaconf import OmegaConf

    from facereel.config.saved_run import read_config
    from facereel.evaluation.baselines import starting_encoder

    config: Any = OmegaConf.to_container(read_config(run))
    try:
        return starting_encoder(config["encoder"], hasher, config["init_from"])
    except UserError as error:
        console.print(f"note: the encoder before training is not compared: {error}")
        return None


def _seen_in_training(run: Path, split: Split) -> int:
    """Return the number of queries and gallery items that are in the run's training or val data."""
    from facereel.config.saved_run import read_record
    from facereel.evaluation.split import LARGEST_SPLIT

    content = read_record(run, "split.json", "train", "val", "pretrain_only", "sha256", largest=LARGEST_SPLIT)
    seen = {key for part in ("train", "val") for kind in ("clips", "stills") for key in content[part][kind]}
    seen.update(content["pretrain_only"])
    own = content["sha256"] == split.sha256
    searched = split.gallery(split.test)
    # In the run's own split only the queries must be new: its gallery may be train.
    parts = [split.test] if own or searched is split.test else [split.test, searched]
    keys = [key for part in parts for names in part.keys().values() for key in names]
    return sum(key in seen for key in keys)


def _new_folder(run: Path | None, cfg: DictConfig, split: Split) -> Path:
    """Return the path of a new folder for this data set and protocol."""
    from facereel.storage.untrusted import resolve_inside

    if run is None:
        path = Path(cfg.checkpoint)
        run = path if path.is_dir() else path.parent
    name = f"{cfg.data.name}-{split.protocol}"
    folder, n = run / "evaluations" / name, 1
    while folder.exists():
        n += 1
        folder = run / "evaluations" / f"{name}-{n}"
    return resolve_inside(run, folder)  # an untrusted run may give its data any name
