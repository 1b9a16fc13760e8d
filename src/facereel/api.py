"""Training, evaluation and indexing as functions: what the commands do, without printing, exiting or `sys.argv`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facereel.models import VideoHasher
    from facereel.retrieval.track_index import TrackIndex


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        folder: folder with `metrics.json`, `per_query.csv` and `report.html`.
        metrics: content of `metrics.json`; mAP is `metrics["tasks"]["still_to_clip"]["mAP"]`.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def report(self) -> Path:
        """The report, an HTML page that needs no other file."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class Run(Evaluation):
    """A trained run: its folder, its metrics and its model."""

    trust: tuple[str, ...] = field(default=(), repr=False)
    """Modules of the configured classes, which may be your own."""

    @cached_property
    def model(self) -> VideoHasher:
        """The trained model, in evaluation mode on the CPU."""
        from facereel.models import VideoHasher

        return VideoHasher.load(self.folder / "model", trust=self.trust)


def train(*overrides: str, out: str | Path | None = None, verbose: bool = False) -> Run:
    """Train a model and evaluate it, as `facereel train` does.

    A run that already exists in `out` with the same configuration is resumed.

    Args:
        *overrides: Hydra overrides of `configs/train.yaml`, such as "experiment=dhh" and "head.n_bits=48".
        out: folder of the run; `runs/NAME/TIME` by default.
        verbose: print what the command prints.

    Returns:
        The run.

    Raises:
        UserError: if an override, the configuration or the data is wrong.

    Examples:
        >>> run = facereel.train("data.manifest=prepared/ytf", "head.n_bits=48", out="runs/a")  # doctest: +SKIP
        >>> run.metrics["tasks"]["still_to_clip"]["mAP"]  # doctest: +SKIP
        >>> codes = run.model.encode_stills(images)  # doctest: +SKIP
    """
    from facereel.config.build import check_training, fill_from_manifest
    from facereel.config.compose import compose_with_choices, one_line_errors
    from facereel.config.overrides import readable
    from facereel.training import pipeline

    with _quiet(verbose), _isolated(), one_line_errors():
        given = [*fill_from_manifest([readable(override) for override in overrides]), *_out_override(out)]
        cfg, choices = compose_with_choices("train", given)
        folder = Path(cfg.out)
        check_training(cfg, own_split=(folder / "split.json").exists())
        kept = [override for override in given if not override.startswith("out=")]
        metrics = pipeline.train(cfg, folder, {"overrides": kept, "choices": choices})
        return Run(folder, metrics, pipeline.part_modules(cfg))


def evaluate(
    run: Run | str | Path, *overrides: str, out: str | Path | None = None, verbose: bool = False
) -> Evaluation:
    """Evaluate a run or a model, as `facereel evaluate` does.

    Data and protocol are those of the run unless you choose others.

    Args:
        run: a run, its folder, the folder of a model, or a checkpoint file.
        *overrides: Hydra overrides of `configs/evaluate.yaml`, such as "data=folder" and "protocol=leave_one_out".
        out: folder for the results; by default a new one inside the run.
        verbose: print what the command prints.

    Returns:
        The evaluation.

    Raises:
        UserError: if an override, the model or the data is wrong.

    Examples:
        >>> result = facereel.evaluate(run, "data=folder", "data.root=faces")  # doctest: +SKIP
        >>> result.metrics["tasks"]["clip_to_clip"]["recall_at_1"]  # doctest: +SKIP
    """
    from facereel.cli.evaluate import evaluate_overrides
    from facereel.config.overrides import quoted

    checkpoint = run.folder if isinstance(run, Evaluation) else run
    with _quiet(verbose):
        metrics, folder = evaluate_overrides([f"checkpoint={quoted(str(checkpoint))}", *overrides, *_out_override(out)])
    return Evaluation(folder, metrics)


def index_videos(
    *videos: str | Path,
    out: str | Path,
    tracks: str | Path | None = None,
    checkpoint: str | Path | None = None,
    encoder: str | Path | None = None,
    verbose: bool = False,
) -> TrackIndex:
    """Find the faces in videos and make an index that `FaceSearch` searches, as `facereel index` does.

    Call it again to add videos: it reads only those that are new or changed.

    Args:
        *videos: video files, and folders that are searched for them.
        out: folder of the index.
        tracks: folder for the face crops; by default `OUT/tracks`, or the folder from which the index was made.
        checkpoint: a run or a model; by default the index's own; a new index needs none.
        encoder: encoder of a new index without a checkpoint: "sface" (the default), "dlib", or an ONNX file.
        verbose: print progress and notes.

    Returns:
        The index.

    Raises:
        UserError: if there is no video, no video can be decoded, the encoder is unknown, or the index has another
            model.

    Examples:
        >>> facereel.index_videos("films", out="index")  # doctest: +SKIP
        >>> search = facereel.FaceSearch("index")  # doctest: +SKIP
        >>> search.search(search.faces("photo.jpg")[0], top=3)  # doctest: +SKIP
    """
    from facereel.cli.index import Finding, choose_model, index_paths, print_total
    from facereel.errors import UserError
    from facereel.retrieval.build_index import IndexOptions
    from facereel.retrieval.track_index import TrackIndex

    out = Path(out)
    if checkpoint is not None and encoder is not None:
        raise UserError("checkpoint and encoder both name a model: use one of them")
    with _quiet(verbose):
        run = None if checkpoint is None else Path(checkpoint)
        model, calibration = choose_model(out, run, None if encoder is None else str(encoder), codes_only=False)
        finding = Finding(tracks=None if tracks is None else Path(tracks))
        report = index_paths([Path(video) for video in videos], out, model, IndexOptions(calibration), finding)
        print_total([report], out)
    return TrackIndex(out)


def _out_override(out: str | Path | None) -> list[str]:
    """The override of the folder of results, if one is given."""
    from facereel.config.overrides import quoted

    return [] if out is None else [f"out={quoted(str(out))}"]


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Print nothing unless `verbose`, and restore PyTorch's random state, from which a new model draws."""
    import torch

    from facereel.system.console import console

    before, console.quiet = console.quiet, not verbose
    try:
        with torch.random.fork_rng():
            yield
    finally:
        console.quiet = before


@contextmanager
def _isolated() -> Iterator[None]:
    """Restore what training changes in the process: random states, the environment, and how messages are filtered."""
    import logging

    import torch

    from facereel.training.seeds import random_state, set_random_state

    environment, state = dict(os.environ), random_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        set_random_state(state)
        torch.use_deterministic_algorithms(deterministic)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
