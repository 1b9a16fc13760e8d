"""report.html: one page with everything in it, pictures included."""

from __future__ import annotations

import base64
import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import torch

from facereel.data import Clip, FaceSet, Still
from facereel.data.select import evenly_spaced
from facereel.evaluation import charts
from facereel.evaluation.baselines import Comparison
from facereel.evaluation.metrics import TaskResult
from facereel.evaluation.split import Split
from facereel.files import write_beside
from facereel.functional.hamming import bit_distance

# Queries shown a task, from the best answered to the worst; nearest items shown of each.
N_QUERIES = 6
N_NEAREST = 5

FIGURES = {
    "mAP": "mAP, expected over ties",
    "mAP_best": "best order of ties",
    "mAP_worst": "worst order of ties",
    "mAP_database_order": "ties in database order",
    "mAP_reranked": "mAP, shortlist by real-valued query",
    "mAP_asymmetric": "mAP, real-valued query",
    "mAP_float": "mAP, real-valued both sides",
    "recall_at_1": "recall at 1",
    "recall_at_10": "recall at 10",
    "precision_at_radius_2": "precision within 2 bits",
    "n_queries": "queries",
    "n_queries_without_match": "queries without a match (left out)",
    "n_gallery": "gallery",
}

VERIFICATION_FIGURES = {
    "accuracy": "accuracy, mean over folds",
    "accuracy_std": "standard deviation over folds",
    "eer": "equal error rate",
    "auc": "area under the curve",
}


@dataclass
class Hit:
    """A gallery item beside a query."""

    picture: str
    person: str
    distance: int
    right: bool
    rank: int


@dataclass
class QueryRow:
    """A query with its nearest items and its farthest match."""

    picture: str
    person: str
    average_precision: float
    nearest: list[Hit]
    farthest_match: Hit


def write_report(
    path: Path,
    metrics: dict[str, Any],
    results: dict[str, TaskResult],
    faces: FaceSet,
    split: Split,
    comparison: Comparison | None,
) -> None:
    """Write the page.

    Args:
        path: of report.html.
        metrics: the content of metrics.json.
        results: by task.
        faces: hold the pictures.
        split: is described.
        comparison: mAP by method and task, or None.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("facereel.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = {"train": split.train, "val": split.val, "test": split.test}
    html = environment.get_template("report.html.j2").render(
        metrics=metrics,
        figures={key: name for key, name in FIGURES.items() if any(key in task for task in metrics["tasks"].values())},
        data_summary=faces.summary(),
        data_note=faces.note,
        parts={name: (len(part.clips), len(part.stills)) for name, part in parts.items()},
        notes=[*faces.lines(), *(f"{count} {note}" for note, count in split.notes.items())],
        comparison=comparison,
        best=_best(comparison),
        precision_recall=charts.precision_recall(results) if results else None,
        histograms=charts.distance_histograms(results) if results else None,
        training=charts.training_curves(curves) if (curves := read_curves(path.parent)) else None,
        roc=charts.roc(metrics["verification"]) if metrics["verification"] else None,
        verification_figures=VERIFICATION_FIGURES,
        grids={task: query_rows(result, faces) for task, result in results.items()},
    )
    with write_beside(path) as beside:
        beside.write_text(html, encoding="utf-8")


def read_curves(run: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Training loss and val mAP of each stage of a run by step, from the logs in its folders, in their order."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    logs = sorted(run.glob("*/metrics*.csv"), key=lambda path: (path.stat().st_mtime, path.name))
    for log in logs:
        lines = curves.setdefault(log.parent.name, {"train/loss": [], "val/mAP": []})
        rows = _numbers(log)
        for name, points in lines.items():
            # What was trained again after a kill stands in both logs; the later one holds what the run went on from.
            points[:] = [point for point in points if not rows or point[0] < rows[0]["step"]]
            points += [(row["step"], row[name]) for row in rows if name in row]
    return {stage: lines for stage, lines in curves.items() if lines["train/loss"]}


def _numbers(log: Path) -> list[dict[str, float]]:
    """The numbers of a log, row by row; what a killed run or a full disk left of a row is left out."""
    rows = []
    with log.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            with suppress(TypeError, ValueError):  # a row of fewer cells has None in their place
                if None not in row.values() and None not in row:
                    rows.append({name: float(cell) for name, cell in row.items() if cell})
    return [row for row in rows if "step" in row]


def query_rows(result: TaskResult, faces: FaceSet) -> list[QueryRow]:
    """Pick queries evenly from the best answered to the worst, each with its nearest items and farthest match."""
    has_match = (~result.precisions["mAP"].isnan()).nonzero().squeeze(1)
    ordered = has_match[result.precisions["mAP"][has_match].argsort(descending=True, stable=True)]
    places = torch.linspace(0, len(ordered) - 1, min(N_QUERIES, len(ordered))).round().long()
    rows = []
    for q in ordered[places].tolist():
        item = result.query.items[q]
        distances = bit_distance(result.query.codes[q : q + 1], result.gallery.codes)[0]
        if result.exclude is not None:
            distances[result.exclude[q]] = result.query.codes.shape[1] + 1
        order = distances.argsort(stable=True).tolist()
        rank_of = {n: rank for rank, n in enumerate(order, start=1)}

        def hit(n: int, person: int = item.person, distances: Any = distances, ranks: Any = rank_of) -> Hit:
            found = result.gallery.items[n]
            return Hit(
                picture(faces, found), faces.people[found.person], int(distances[n]), found.person == person, ranks[n]
            )

        matches = [n for n in order if result.gallery.items[n].person == item.person]
        if result.exclude is not None:
            matches = [n for n in matches if not result.exclude[q, n]]
        nearest = [n for n in order if distances[n] <= result.query.codes.shape[1]][:N_NEAREST]
        rows.append(
            QueryRow(
                picture(faces, item),
                faces.people[item.person],
                float(result.precisions["mAP"][q]),
                [hit(n) for n in nearest],
                hit(matches[-1]),
            )
        )
    return rows


def picture(faces: FaceSet, item: Clip | Still) -> str:
    """A JPEG data URI of a still, or of two frames of a clip side by side."""
    rows = [item.row] if isinstance(item, Still) else evenly_spaced(item.rows, 2)
    images = [picture.permute(1, 2, 0).numpy()[:, :, ::-1] for picture in faces.pictures(rows)]
    _, content = cv2.imencode(".jpg", np.hstack(images), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def _best(comparison: Comparison | None) -> dict[str, float]:
    if comparison is None:
        return {}
    tasks = {task for values in comparison.values() for task in values}
    return {task: max(values[task] for values in comparison.values() if task in values) for task in tasks}
