"""The figures of a table from its runs' folders: means over seeds, intervals, and which rows differ."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.evaluation.significance import bootstrap_interval, holm, permutation_p
from facereel.tables.execute import is_done
from facereel.tables.plan import Cell, Run, Table

# Adjusted p from which on a difference is not called significant.
LEVEL = 0.05


@dataclass
class Figure:
    """What one cell says of one task, or of another figure of its runs."""

    values: dict[int, float] = field(default_factory=dict)
    """By seed."""
    queries: dict[Hashable, tuple[str, float]] = field(default_factory=dict)
    """Average precision of each seed's queries, with whose face is asked for; empty for what is no mAP."""
    interval: tuple[float, float] | None = None
    is_best: bool = False
    p: float | None = None
    """Of the difference to the best of the column, adjusted for the number of rows; None for the best itself, or where
    they were not asked the same queries."""
    published: float | None = None
    published_source: str = ""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1); None of a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def is_like_best(self) -> bool:
        """Whether it is not significantly different from the best."""
        return self.p is not None and self.p >= LEVEL


# By row, column, and task or other figure; only what there is.
Figures = dict[tuple[str, str, str], Figure]


def gather(table: Table, folder: Path) -> Figures:
    """Read what the finished runs of a table hold and compare its rows.

    Args:
        table: as planned.
        folder: of the runs' folders.

    Raises:
        UserError: if a run's files are damaged.
    """
    figures: Figures = {}
    for cell in table.cells.values():
        for run in cell.runs:
            if is_done(run, folder):
                _read_run(table, cell, run, run.folder(folder), figures)
    for (_, _, measure), figure in figures.items():
        if measure in table.tasks:
            figure.interval = bootstrap_interval(figure.queries)
    if table.compare_rows:
        for column in table.columns:
            for task in table.tasks:
                _compare([figures[key] for row in table.rows if (key := (row, column, task)) in figures])
    return figures


def read_published(path: Path, table: Table, figures: Figures) -> None:
    """Put published figures, which the user supplies, beside ours.

    Args:
        path: of a CSV file with the columns row, column, task, value (0..1) and source.
        table: names its rows, columns and tasks.
        figures: are changed in place; what we have no figure of is added without one.

    Raises:
        UserError: for a line that is not of the table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            _read_published(path, csv.DictReader(file), table, figures)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"published={path} is not a CSV file in UTF-8: {error}") from error


def _read_published(path: Path, reader: csv.DictReader[str], table: Table, figures: Figures) -> None:
    missing = {"row", "column", "task", "value", "source"} - set(reader.fieldnames or ())
    if missing:
        raise UserError(f"published={path}: has no column {', '.join(sorted(missing))}")
    for line in reader:
        where = f"published={path}, line {reader.line_num}"
        for key, known in (("row", table.rows), ("column", table.columns), ("task", table.tasks)):
            if line[key] not in known:
                raise UserError(f"{where}: {key} {line[key]!r} is not in the table, which has {', '.join(known)}")
        try:
            value = float(line["value"])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:
            raise UserError(f"{where}: value {line['value']!r} must be a number in 0..1")
        figure = figures.setdefault((line["row"], line["column"], line["task"]), Figure())
        figure.published, figure.published_source = value, line["source"] or ""


def _read_run(table: Table, cell: Cell, run: Run, folder: Path, figures: Figures) -> None:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        precisions = _precisions(cell, folder)
        for task in table.tasks:
            asked = precisions.get(task)
            if asked:
                figure = figures.setdefault((cell.row, cell.column, task), Figure())
                figure.values[run.seed] = statistics.fmean(value for _, value in asked.values())
                # Each seed draws its own split, so that a query is known by both.
                figure.queries.update({(run.seed, query): told for query, told in asked.items()})
        for name in table.also:
            value = code_bytes(cell, metrics) if name == "code_bytes" else nonfinite_steps(folder)
            figures.setdefault((cell.row, cell.column, name), Figure()).values[run.seed] = value
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise UserError(f"{folder}: is damaged ({error}); remove it to have it run again") from error


def _precisions(cell: Cell, folder: Path) -> dict[str, dict[str, tuple[str, float]]]:
    """By task and query: whose face is asked for, and the average precision, without queries that have no match."""
    name = "per_query.csv" if cell.method is None else "comparison_per_query.csv"
    column = cell.figure.replace("mAP", "average_precision")
    asked: dict[str, dict[str, tuple[str, float]]] = {}
    with (folder / name).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line in csv.DictReader(file):
            if (cell.method is None or line["method"] == cell.method) and line[column]:
                asked.setdefault(line["task"], {})[line["query"]] = (line["person"], float(line[column]))
    return asked


def code_bytes(cell: Cell, metrics: dict[str, Any]) -> float:
    """Bytes that a gallery item takes: whole bytes of bits, or four a real-valued output."""
    n_bits = int(metrics["n_bits"])
    return 4 * n_bits if cell.figure == "mAP_float" else math.ceil(n_bits / 8)


def nonfinite_steps(folder: Path) -> float:
    """Steps of all stages that were skipped because their loss or gradient was not finite, or too large."""
    # A stage counts on through its restarts, each of which begins a log.
    by_stage: dict[Path, float] = {}
    for log in folder.glob("*/metrics*.csv"):
        with log.open(newline="", encoding="utf-8") as file:
            counts = [float(line.get("train/nonfinite_steps") or 0) for line in csv.DictReader(file)]
        by_stage[log.parent] = max([by_stage.get(log.parent, 0.0), *counts])
    return sum(by_stage.values())


def _compare(column: list[Figure]) -> None:
    """Mark the best of a column, and test the others against it."""
    if not column:
        return
    best = max(column, key=lambda figure: figure.mean)
    best.is_best = True
    others = [figure for figure in column if figure is not best and figure.queries.keys() == best.queries.keys()]
    p_values = holm([permutation_p(best.queries, figure.queries) for figure in others])
    for figure, p in zip(others, p_values, strict=True):
        figure.p = p
