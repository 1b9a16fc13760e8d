"""Writing of an evaluation to a folder, and printing of its main results."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from facereel.evaluation.baselines import Comparison
from facereel.evaluation.evaluate import Evaluation
from facereel.evaluation.metrics import PRECISIONS, TASKS
from facereel.evaluation.report import number, template_rows, verification_rows, write_report
from facereel.evaluation.verification import VerificationResult
from facereel.storage.files import atomic_write
from facereel.system.console import console

# The rows of the printed table.
_PRINTED = ("mAP", "mAP_interval", "mAP_reranked", "mAP_asymmetric", "mAP_real_valued", "recall_at_1", "recall_at_10")


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write metrics.json, per_query.csv, manifest.parquet and report.html.

    With pairs, also write verification.csv; with baselines, also comparison.json and comparison_per_query.csv.
    metrics.json is written last: a folder that contains it is complete.

    Args:
        evaluation: results of a model.
        out: folder, created if it does not exist.
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluation.faces.used_rows().save(out / "manifest.parquet")
    _write_csv(out / "per_query.csv", _query_rows(evaluation))
    if evaluation.verification is not None:
        _write_csv(out / "verification.csv", _pair_rows(evaluation.verification))
    if evaluation.comparison is not None:
        _write_json(out / "comparison.json", evaluation.comparison)
        _write_csv(out / "comparison_per_query.csv", _compared_rows(evaluation))
    write_report(out / "report.html", evaluation)
    _write_json(out / "metrics.json", evaluation.metrics)


def print_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Print the main results as a table, notes on the data, and the path of the report.

    Args:
        evaluation: results of a model.
        out: folder with the report.
    """
    comparison = evaluation.comparison
    if comparison is not None and not any("ITQ" in name for name in comparison):
        console.print("note: ITQ is omitted: the protocol has fewer training images than bits")
    metrics = evaluation.metrics
    if evaluation.split.templates is not None:
        console.print(_template_table(metrics))
    else:
        console.print(_search_table(metrics, comparison) if metrics["tasks"] else _verification_table(metrics))
    if evaluation.faces.note:
        console.print(evaluation.faces.note)
    console.print(f"report: {out / 'report.html'}")


def _query_rows(evaluation: Evaluation) -> Iterator[list[object]]:
    names = [name.replace("mAP", "average_precision") for name in PRECISIONS]
    yield ["task", "query", "source", names[0], "n_relevant", "person", *names[1:]]
    for task, result in evaluation.results.items():
        n_relevant = result.n_relevant.sum(dim=1).tolist()
        values = zip(*(result.precisions[name].tolist() for name in PRECISIONS), strict=True)
        for item, (codes, *others), n in zip(result.query.items, values, n_relevant, strict=True):
            person = evaluation.faces.people[item.person]
            yield [task, item.key, item.source, _precision(codes), n, person, *map(_precision, others)]


def _compared_rows(evaluation: Evaluation) -> Iterator[list[object]]:
    yield ["method", "task", "query", "person", "average_precision"]
    for method, tasks in evaluation.precisions.items():
        for task, values in tasks.items():
            for item, value in zip(evaluation.results[task].query.items, values.tolist(), strict=True):
                yield [method, task, item.key, evaluation.faces.people[item.person], _precision(value)]


def _pair_rows(verified: VerificationResult) -> Iterator[list[object]]:
    yield ["fold", "first", "second", "same", "hamming", "distance"]
    distances = zip(verified.hamming.tolist(), verified.distance.tolist(), strict=True)
    for pair, (hamming, distance) in zip(verified.pairs, distances, strict=True):
        yield [pair.fold, pair.first, pair.second, int(pair.same), hamming, distance]


def _precision(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _write_csv(path: Path, rows: Iterable[list[object]]) -> None:
    # Names of folders may not be UTF-8; they are written unchanged.
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file).writerows(rows)


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _new_table(title: str, first_column: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column(first_column, no_wrap=True)
    return table


def _verification_table(metrics: dict[str, Any]) -> Table:
    found = metrics["verification"]
    title = f"verification, {metrics['protocol']}, {found['n_pairs']} pairs in {found['n_folds']} folds"
    table = _new_table(title, "metric")
    for kind in ("codes", "real-valued"):
        table.add_column(kind, justify="right", no_wrap=True)
    for row in verification_rows(found):
        table.add_row(*row)
    return table


def _template_table(metrics: dict[str, Any]) -> Table:
    table = _new_table(f"{metrics['protocol']}, templates", "metric")
    for kind in ("codes", "real-valued"):
        table.add_column(kind, justify="right")
    for name, *values in template_rows(metrics):
        table.add_row(name, *values)
    return table


def _search_table(metrics: dict[str, Any], comparison: Comparison | None) -> Table:
    table = _new_table(f"mAP, {metrics['protocol']}, expected over ties", "codes" if comparison else "metric")
    tasks = [task for task in TASKS if task in metrics["tasks"]]
    for task in tasks:
        table.add_column(task.replace("_to_", "\nto "), justify="right")
    rows = comparison or {
        name: {task: metrics["tasks"][task][name] for task in tasks}
        for name in _PRINTED
        if all(name in metrics["tasks"][task] for task in tasks)
    }
    for name, values in rows.items():
        table.add_row(name, *(number(values.get(task)) for task in tasks))
    return table
