"""A table as a picture: bars, lines along its columns, or curves of training."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from facereel.evaluation.charts import STYLE
from facereel.evaluation.report import read_curves
from facereel.files import write_beside
from facereel.tables.execute import is_done
from facereel.tables.figures import Figures
from facereel.tables.plan import Table, numbers_of
from facereel.tables.write import title_of

# Okabe and Ito's eight colours, told apart with any colour vision; grey for black, on which error bars are not seen.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b3a100", "#777777")

_DASHES = ("-", "-", (0, (4, 4)))


def write_plot(table: Table, figures: Figures, runs: Path, path: Path) -> None:
    """Draw a panel a task: means over seeds with the intervals over people; or training loss and val mAP by step."""
    with mpl.rc_context(STYLE):
        drawing = _curves(table, runs) if table.plot == "curves" else _panels(table, figures)
        with write_beside(path) as beside:
            drawing.savefig(beside, format="svg", metadata={"Date": None})


def _panels(table: Table, figures: Figures) -> Drawing:
    drawing = Drawing(figsize=(6.0 * len(table.tasks), 4.4), layout="constrained")
    numbers = numbers_of(table.columns) if table.plot == "lines" else None
    for axes, task in zip(drawing.subplots(1, len(table.tasks), squeeze=False)[0], table.tasks, strict=True):
        for i, row in enumerate(table.rows):
            known = [(j, figures[row, c, task]) for j, c in enumerate(table.columns) if (row, c, task) in figures]
            known = [(j, figure) for j, figure in known if figure.values]
            if not known:
                continue
            means = [figure.mean for _, figure in known]
            ends = [figure.interval or (figure.mean, figure.mean) for _, figure in known]
            errors = [
                [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)],
                [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)],
            ]
            colour = _COLOURS[i % len(_COLOURS)]
            if table.plot == "lines":
                at = [j if numbers is None else numbers[j] for j, _ in known]
                axes.errorbar(
                    at, means, errors, fmt="o-", color=colour, label=row, capsize=2, markersize=4, linewidth=1.5
                )
            else:
                width = 0.8 / len(table.rows)
                at = [j + (i - (len(table.rows) - 1) / 2) * width for j, _ in known]
                axes.bar(at, means, width * 0.9, yerr=errors, color=colour, label=row, capsize=2)
        if numbers is not None:
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.minorticks_off()
            axes.set_xlabel("bits")
        else:
            axes.set_xticks(range(len(table.columns)), table.columns)
            axes.grid(visible=False, axis="x")
        axes.set(title=title_of(task), ylabel="mAP", ylim=(0, 1.02))
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        drawing.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return drawing


def _curves(table: Table, runs: Path) -> Drawing:
    """The first seed's curves, a row of the table a colour, a panel a stage; of the first column that has any."""
    by_row = {}
    for column in table.columns:
        for row in table.rows:
            done = [run for run in table.cells[row, column].runs if is_done(run, runs)]
            if done and row not in by_row:
                by_row[row] = read_curves(done[0].folder(runs))
        if by_row:
            break
    stages = list(dict.fromkeys(stage for curves in by_row.values() for stage in curves))
    drawing = Drawing(figsize=(6.0 * max(1, len(stages)), 4.4), layout="constrained")
    for axes, stage in zip(drawing.subplots(1, max(1, len(stages)), squeeze=False)[0], stages or [""], strict=True):
        for i, (row, curves) in enumerate(by_row.items()):
            points = curves.get(stage, {}).get("train/loss", [])
            if points:
                # Dashes, behind which another row is seen where curves fall together.
                look = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}
                axes.plot(*zip(*points, strict=True), label=row, linewidth=1.6, **look)
        axes.set(title=stage, xlabel="step", ylabel="training loss")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        drawing.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return drawing
