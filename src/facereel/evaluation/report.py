"""The report of an evaluation: report.html, one page with all results, images included."""

import base64
import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from facereel.data import Clip, FaceSet, Still
from facereel.data.select import evenly_spaced
from facereel.evaluation import charts
from facereel.evaluation.baselines import Comparison
from facereel.evaluation.evaluate import Evaluation
from facereel.evaluation.metrics import TaskResult
from facereel.functional.hamming import bit_distance
from facereel.storage.files import atomic_write
from facereel.video.image_file import encode_jpeg

# Number of queries per task, from the best result to the worst, and of nearest items per query.
N_QUERIES = 6
N_NEAREST = 5

METRICS = {
    "mAP": "mAP, expected over ties",
    "mAP_interval": "95% interval over people",
    "mAP_best": "best order of ties",
    "mAP_worst": "worst order of ties",
    "mAP_stable_order": "ties in database order",
    "mAP_reranked": "mAP, shortlist by real-valued query",
    "mAP_asymmetric": "mAP, real-valued query",
    "mAP_real_valued": "mAP, real-valued both sides",
    "recall_at_1": "recall at 1",
    "recall_at_10": "recall at 10",
    "precision_at_radius_2": "precision within 2 bits",
    "n_queries": "queries",
    "n_queries_without_match": "queries without a match (excluded)",
    "n_gallery": "gallery",
}

VERIFICATION_METRICS = {
    "accuracy": "accuracy, mean over folds",
    "accuracy_std": "its standard deviation",
    "eer": "equal error rate",
    "auc": "area under the curve",
}


# Names of the metrics of templates; the key of each rate or rank is inserted.
TEMPLATE_METRICS = {
    "rank": "found within rank {}",
    "tpir_at_fpir": "TPIR at FPIR {}",
    "tmr_at_fmr": "TMR at FMR {}",
}


@dataclass
class Hit:
    """A gallery item next to a query."""

    image: str
    person: str
    distance: int
    right: bool
    rank: int


@dataclass
class QueryRow:
    """A query with its nearest items and its farthest match."""

    image: str
    person: str
    average_precision: float
    nearest: list[Hit]
    farthest_match: Hit


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the report. Training curves are read from the logs next to it, if there are any.

    Args:
        path: path of the HTML file.
        evaluation: results of a model.
    """
    faces, split, metrics, results = evaluation.faces, evaluation.split, evaluation.metrics, evaluation.results
    comparison = evaluation.comparison
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("facereel.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        metrics=metrics,
        metric_names={
            key: name for key, name in METRICS.items() if any(key in task for task in metrics["tasks"].values())
        },
        data_summary=faces.summary(),
        data_note=faces.note,
        parts={name: (len(part.clips), len(part.stills)) for name, part in split.parts.items()},
        notes=[*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())],
        comparison=comparison,
        best=_best(comparison),
        precision_recall=charts.precision_recall(results) if results else None,
        histograms=charts.distance_histograms(results) if results else None,
        training=charts.training_curves(curves) if (curves := read_curves(path.parent)) else None,
        roc=charts.roc(metrics["verification"]) if metrics["verification"] and split.templates is None else None,
        template_rows=[] if split.templates is None else template_rows(metrics),
        verification_rows=verification_rows(metrics["verification"])
        if metrics["verification"] and split.templates is None
        else [],
        number=number,
        grids={task: query_rows(result, faces) for task, result in results.items()},
    )
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def template_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the table of template metrics.

    Args:
        metrics: content of metrics.json.

    Returns:
        For each metric its name, its value for codes and its value for real-valued outputs, with intervals.
    """
    found = metrics.get("identification") or metrics["verification"]
    return [
        (words.format(key), _with_interval(found["codes"], name, key), _with_interval(found["real_valued"], name, key))
        for name, words in TEMPLATE_METRICS.items()
        for key in found["codes"].get(name, ())
    ]


def _with_interval(values: dict[str, Any], name: str, key: str) -> str:
    return number(values[name][key], values[f"{name}_interval"][key])


def number(value: float | list[float] | None, interval: list[float] | None = None) -> str:
    """Format a metric or an interval as text.

    Args:
        value: the metric, or the two ends of an interval.
        interval: interval of the metric, added in brackets; or None.

    Returns:
        The text; "-" for None.
    """
    if isinstance(value, list):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    text = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
    return text if interval is None else f"{text} ({number(interval)})"


def verification_rows(verification: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of the table of pair metrics.

    Args:
        verification: entry of metrics.json.

    Returns:
        For each metric its name, its value for codes and its value for real-valued outputs.
    """
    codes, real_valued = ({**of, **_by_rate(of)} for of in (verification["codes"], verification["real_valued"]))
    rates = [rate for rate, tmr in codes["tmr_at_fmr"].items() if tmr is not None]
    words = VERIFICATION_METRICS | {rate: f"TMR at FMR {rate}" for rate in rates}
    return [(text, _cell(codes, name), _cell(real_valued, name)) for name, text in words.items()]


def _by_rate(metrics: dict[str, Any]) -> dict[str, Any]:
    intervals = {f"{rate}_interval": ends for rate, ends in metrics["tmr_at_fmr_interval"].items()}
    return metrics["tmr_at_fmr"] | intervals


def _cell(metrics: dict[str, Any], name: str) -> str:
    return number(metrics[name], metrics.get(f"{name}_interval"))


def read_curves(run: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Read the training loss and the val mAP of each stage of a run from its logs.

    Args:
        run: folder of the run.

    Returns:
        For each stage, in the order of training, "train/loss" and "val/mAP" as pairs of step and value.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    logs = sorted(run.glob("*/metrics*.csv"), key=lambda path: (path.stat().st_mtime, path.name))
    for log in logs:
        lines = curves.setdefault(log.parent.name, {"train/loss": [], "val/mAP": []})
        rows = _numbers(log)
        for name, points in lines.items():
            # Steps that were repeated after a restart are in both logs; the later log is the valid one.
            points[:] = [point for point in points if not rows or point[0] < rows[0]["step"]]
            points += [(row["step"], row[name]) for row in rows if name in row]
    return {stage: lines for stage, lines in curves.items() if lines["train/loss"]}


def _numbers(log: Path) -> list[dict[str, float]]:
    """Return the numbers of a log by row; rows that a killed run or a full disk truncated are dropped."""
    rows = []
    with log.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            with suppress(TypeError, ValueError):  # a row with fewer cells has None instead
                if None not in row.values() and None not in row:
                    rows.append({name: float(cell) for name, cell in row.items() if cell})
    return [row for row in rows if "step" in row]


def query_rows(result: TaskResult, faces: FaceSet) -> list[QueryRow]:
    """Pick queries evenly from the best result to the worst, each with its nearest items and its farthest match.

    Args:
        result: result of a task.
        faces: the data set.

    Returns:
        The rows of the report.
    """
    has_match = (~result.precisions["mAP"].isnan()).nonzero().squeeze(1)
    ordered = has_match[result.precisions["mAP"][has_match].argsort(descending=True, stable=True)]
    places = torch.linspace(0, len(ordered) - 1, min(N_QUERIES, len(ordered))).round().long()
    return [_query_row(result, q, faces) for q in ordered[places].tolist()]


def _query_row(result: TaskResult, q: int, faces: FaceSet) -> QueryRow:
    item, gallery = result.query.items[q], result.gallery.items
    distances = bit_distance(result.query.codes[q : q + 1], result.gallery.codes)[0]
    order = distances.argsort(stable=True).tolist()
    if result.exclude is not None:
        order = [n for n in order if not result.exclude[q, n]]

    def hit(place: int) -> Hit:
        n = order[place]
        person = gallery[n].person
        return Hit(image(faces, gallery[n]), faces.people[person], int(distances[n]), person == item.person, place + 1)

    return QueryRow(
        image(faces, item),
        faces.people[item.person],
        float(result.precisions["mAP"][q]),
        [hit(place) for place in range(min(N_NEAREST, len(order)))],
        hit(max(place for place, n in enumerate(order) if gallery[n].person == item.person)),
    )


def image(faces: FaceSet, item: Clip | Still) -> str:
    """Encode a still, or two frames of a clip side by side, as a JPEG data URI.

    Args:
        faces: the data set.
        item: the clip or still.

    Returns:
        The data URI.
    """
    images = [image.permute(1, 2, 0).numpy()[:, :, ::-1] for image in faces.images(evenly_spaced(item.rows, 2))]
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(np.hstack(images), 85)).decode()


def _best(comparison: Comparison | None) -> dict[str, float]:
    if comparison is None:
        return {}
    tasks = {task for values in comparison.values() for task in values}
    return {task: max(values[task] for values in comparison.values() if task in values) for task in tasks}
