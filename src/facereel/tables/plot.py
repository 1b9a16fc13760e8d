"""Plot a table: bars, lines along its columns, or training curves."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from facereel.evaluation.charts import STYLE
from facereel.evaluation.report import read_curves
from facereel.storage.files import atomic_write
from facereel.tables.execute import is_done
from facereel.tables.plan import Table, leading_numbers
from facereel.tables.results import Results
from facereel.tables.write import title_of

# The colors of Okabe and Ito, which are distinguishable with any color vision; gray replaces black, which hides error
# bars.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b3a100", "#777777")

_DASHES = ("-", "-", (0, (4, 4)))


def write_plot(table: Table, results: Results, runs: Path, path: Path) -> None:
    """Write an SVG: the means over seeds with intervals of each task, or the training loss by step of each stage.

    Args:
        table: the planned table.
        results: results of the table.
        runs: folder with the runs' folders.
        path: SVG file to write.
    """
    with mpl.rc_context(STYLE):
        figure = _plot_curves(table, runs) if table.plot == "curves" else _plot_results(table, results)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _panels(n: int) -> tuple[Figure, list[Any]]:
    """Return a figure and its panels, two in a row from four on: one row of four is too small to read on a page."""
    n_columns = n if n < 4 else 2
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(6.0 * n_columns, 4.4 * n_rows), layout="constrained")
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def _add_legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


def _plot_results(table: Table, results: Results) -> Figure:
    figure, panels = _panels(len(table.tasks))
    numbers = leading_numbers(table.columns) if table.plot == "lines" else None
    for axes, task in zip(panels, table.tasks, strict=True):
        for i, row in enumerate(table.rows):
            found = [(j, results.get((row, column, task))) for j, column in enumerate(table.columns)]
            known = [(j, result) for j, result in found if result is not None and result.values]
            if not known:
                continue
            means = [result.mean for _, result in known]
            intervals = [result.interval or (result.mean, result.mean) for _, result in known]
            errors = [
                [max(0.0, mean - low) for mean, (low, _) in zip(means, intervals, strict=True)],
                [max(0.0, high - mean) for mean, (_, high) in zip(means, intervals, strict=True)],
            ]
            look = {"color": _COLORS[i % len(_COLORS)], "label": row, "capsize": 2}
            if table.plot == "lines":
                x = [j if numbers is None else numbers[j] for j, _ in known]
                axes.errorbar(x, means, errors, fmt="o-", markersize=4, linewidth=1.5, **look)
            else:
                width = 0.8 / len(table.rows)
                x = [j + (i - (len(table.rows) - 1) / 2) * width for j, _ in known]
                axes.bar(x, means, width * 0.9, yerr=errors, **look)
        if numbers is not None:
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.minorticks_off()
            axes.set_xlabel("bits")
        else:
            axes.set_xticks(range(len(table.columns)), table.columns)
            axes.grid(visible=False, axis="x")
        axes.set(title=title_of(task), ylabel="mAP", ylim=(0, 1.02))
    _add_legend(figure, panels[-1])
    return figure


def _plot_curves(table: Table, runs: Path) -> Figure:
    """Return a figure of the first seed in the first column with finished runs: rows as colors, stages as panels."""
    by_row = {}
    for column in table.columns:
        for row in table.rows:
            done = [run for run in table.cells[row, column].runs if is_done(run, runs)]
            if done:
                by_row[row] = read_curves(done[0].folder(runs))
        if by_row:
            break
    stages = list(dict.fromkeys(stage for curves in by_row.values() for stage in curves)) or [""]
    figure, panels = _panels(len(stages))
    for axes, stage in zip(panels, stages, strict=True):
        for i, (row, curves) in enumerate(by_row.items()):
            if points := curves.get(stage, {}).get("train/loss", []):
                # Dashes make a curve visible under another one.
                look = {"color": _COLORS[i % len(_COLORS)], "linestyle": _DASHES[i % len(_DASHES)]}
                axes.plot(*zip(*points, strict=True), label=row, linewidth=1.6, **look)
        axes.set(title=stage, xlabel="step", ylabel="training loss")
    _add_legend(figure, panels[-1])
    return figure
