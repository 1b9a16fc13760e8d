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
    """Evaluate a checkpoint; data and protocol are those of its run unless given.

    Example: facereel evaluate checkpoint=RUN_DIR data=youtube_faces data.root=DIR protocol=leave_one_out
    """
    evaluate_overrides(context.args)


def evaluate_overrides(arguments: list[str]) -> tuple[dict[str, Any], Path]:
    """Evaluate a checkpoint.

    Args:
        arguments: overrides, `checkpoint=PATH` among them.

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
            raise UserError("facereel evaluate needs checkpoint=PATH, a run's folder or a checkpoint file")
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

    Args:
        cfg: as composed from configs/evaluate.yaml.
        run: the folder of the run that the checkpoint is in, or None.
        own_split: use the split saved in the run; otherwise one is drawn.

    Returns:
        The content of metrics.json, and its folder.

    Raises:
        UserError: for a mistake in the configuration, the checkpoint or the data.
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
    # Names in a file are looked up before images are read, which may take long.
    check = (lambda faces: protocol.split(faces, cfg.seed)) if getattr(protocol, "names_items", False) else None
    faces = read_faces(cfg.data, cfg.seed, takes, check)
    console.print(f"data: {faces.summary()}")
    split: Split = protocol.split(faces, cfg.seed)
    for line in (*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())):
        console.print(f"note: {line}")
    weights = "unknown: the checkpoint is in no run"
    if run is not None:
        known = _seen_in_training(run, split)
        if known:
            console.print(f"note: {known} of the searched or asked items have names this run was trained or chosen on")
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
    """How well the test clips' codes fall into people; None without FAISS, or a search among clips.

    A threshold would have to be chosen on other people, so that groups are joined until as many are left as there are
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
    """The encoder as the run's training started, if its weights are still where they were."""
    from omegaconf import OmegaConf

    from facereel.config.saved_run import read_config
    from facereel.evaluation.baselines import starting_encoder

    config: Any = OmegaConf.to_container(read_config(run))
    try:
        return starting_encoder(config["encoder"], hasher, config["init_from"])
    except UserError as error:
        console.print(f"note: the encoder that training started from is not compared: {error}")
        return None


def _seen_in_training(run: Path, split: Split) -> int:
    """How many items of the search have names that the run was trained or chosen on."""
    from facereel.config.saved_run import read_record
    from facereel.evaluation.split import LARGEST_SPLIT

    content = read_record(run, "split.json", "train", "val", "pretrain_only", "sha256", largest=LARGEST_SPLIT)
    seen = {key for part in ("train", "val") for kind in ("clips", "stills") for key in content[part][kind]}
    seen.update(content["pretrain_only"])
    own = content["sha256"] == split.sha256
    searched = split.gallery(split.test)
    # Of the run's own split only the queries must be new; its gallery may be train.
    parts = [split.test] if own or searched is split.test else [split.test, searched]
    keys = [key for part in parts for names in part.keys().values() for key in names]
    return sum(key in seen for key in keys)


def _new_folder(run: Path | None, cfg: DictConfig, split: Split) -> Path:
    """A folder for this data set and protocol that does not exist yet."""
    from facereel.storage.untrusted import resolve_inside

    if run is None:
        path = Path(cfg.checkpoint)
        run = path if path.is_dir() else path.parent
    name = f"{cfg.data.name}-{split.protocol}"
    folder, n = run / "evaluations" / name, 1
    while folder.exists():
        n += 1
        folder = run / "evaluations" / f"{name}-{n}"
    return resolve_inside(run, folder)  # whatever an untrusted run calls its data
