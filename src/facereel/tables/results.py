"""Collect the results of a table from its runs: means over seeds, intervals, and significant differences of rows."""

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
from facereel.tables.execute import DONE_FILE, is_done
from facereel.tables.plan import Cell, Run, Table

# A difference is significant if its adjusted p-value is below this.
LEVEL = 0.05


@dataclass
class CellResult:
    """One metric of one cell: the mAP of a task, or another metric of its runs."""

    values: dict[int, float] = field(default_factory=dict)
    """Values by seed."""
    queries: dict[Hashable, tuple[str, float]] = field(default_factory=dict)
    """Person and average precision of each seed's queries; empty if the metric is not mAP."""
    interval: tuple[float, float] | None = None
    is_best: bool = False
    p: float | None = None
    """Adjusted p-value of the difference to the best of the column; None for the best, or if their queries differ."""
    published: float | None = None
    published_source: str = ""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for a single seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def is_like_best(self) -> bool:
        """Whether it is not significantly different from the best."""
        return self.p is not None and self.p >= LEVEL


# Results by row, column and metric, without empty cells.
Results = dict[tuple[str, str, str], CellResult]


def collect_results(table: Table, folder: Path) -> Results:
    """Read the results of a table's finished runs and compare its rows.

    Args:
        table: the planned table.
        folder: folder with the runs' folders.

    Returns:
        A result for each row, column and metric with a finished run.

    Raises:
        UserError: if a run's files are damaged.
    """
    results: Results = {}
    for cell in table.cells.values():
        for run in cell.runs:
            if is_done(run, folder):
                _read_run(table, cell, run, run.folder(folder), results)
    for (_, _, measure), result in results.items():
        if measure in table.tasks:
            result.interval = bootstrap_interval(result.queries)
    if table.compare_rows:
        for column in table.columns:
            for task in table.tasks:
                _compare([results[key] for row in table.rows if (key := (row, column, task)) in results])
    return results


def read_published(path: Path, table: Table, results: Results) -> None:
    """Add published results from a file that the user supplies.

    Args:
        path: CSV file with the columns row, column, task, value (0..1) and source.
        table: table with these rows, columns and tasks.
        results: results to change in place.

    Raises:
        UserError: if a line does not fit the table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = [(reader.line_num, line) for line in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"published={path} is not a CSV file in UTF-8: {error}") from error
    missing = {"row", "column", "task", "value", "source"} - set(reader.fieldnames or ())
    if missing:
        raise UserError(f"published={path}: the file has no column {', '.join(sorted(missing))}")
    for number, line in lines:
        where = f"published={path}, line {number}"
        for key, known in (("row", table.rows), ("column", table.columns), ("task", table.tasks)):
            if line[key] not in known:
                raise UserError(f"{where}: {key} {line[key]!r} is not in the table, which has {', '.join(known)}")
        try:
            value = float(line["value"])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 1:
            raise UserError(f"{where}: value {line['value']!r} must be a number in 0..1")
        result = results.setdefault((line["row"], line["column"], line["task"]), CellResult())
        result.published, result.published_source = value, line["source"] or ""


def _read_run(table: Table, cell: Cell, run: Run, folder: Path, results: Results) -> None:
    try:
        metrics = json.loads((folder / DONE_FILE).read_text(encoding="utf-8"))
        precisions = _read_precisions(cell, folder)
        for task in table.tasks:
            if queries := precisions.get(task):
                result = results.setdefault((cell.row, cell.column, task), CellResult())
                result.values[run.seed] = statistics.fmean(value for _, value in queries.values())
                # Each seed has another split, so seed and name identify a query.
                result.queries.update({(run.seed, query): value for query, value in queries.items()})
        for name in table.also:
            value = code_bytes(cell, metrics) if name == "code_bytes" else nonfinite_steps(folder)
            results.setdefault((cell.row, cell.column, name), CellResult()).values[run.seed] = value
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise UserError(f"{folder} is damaged ({error}): delete it to repeat the run") from error


def _read_precisions(cell: Cell, folder: Path) -> dict[str, dict[str, tuple[str, float]]]:
    """Return person and average precision by task and query, without queries that have no match."""
    name = "per_query.csv" if cell.method is None else "comparison_per_query.csv"
    column = cell.metric.replace("mAP", "average_precision")
    precisions: dict[str, dict[str, tuple[str, float]]] = {}
    with (folder / name).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line in csv.DictReader(file):
            if (cell.method is None or line["method"] == cell.method) and line[column]:
                precisions.setdefault(line["task"], {})[line["query"]] = (line["person"], float(line[column]))
    return precisions


def code_bytes(cell: Cell, metrics: dict[str, Any]) -> float:
    """Return the bytes per gallery item: ceil(bits / 8), or four for each real-valued score."""
    n_bits = int(metrics["n_bits"])
    return 4 * n_bits if cell.metric == "mAP_real_valued" else math.ceil(n_bits / 8)


def nonfinite_steps(folder: Path) -> float:
    """Return the number of steps in all stages that were skipped for a loss or gradient not finite or too large."""
    # A stage that is resumed keeps its count and starts a new log.
    by_stage: dict[Path, float] = {}
    for log in folder.glob("*/metrics*.csv"):
        with log.open(newline="", encoding="utf-8") as file:
            counts = [float(line.get("train/nonfinite_steps") or 0) for line in csv.DictReader(file)]
        by_stage[log.parent] = max([by_stage.get(log.parent, 0.0), *counts])
    return sum(by_stage.values())


def _compare(column: list[CellResult]) -> None:
    """Mark the best of a column and test the others against it."""
    if not column:
        return
    best = max(column, key=lambda result: result.mean)
    best.is_best = True
    others = [result for result in column if result is not best and result.queries.keys() == best.queries.keys()]
    p_values = holm([permutation_p(best.queries, result.queries) for result in others])
    for result, p in zip(others, p_values, strict=True):
        result.p = p
