"""A table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facereel.files import write_beside
from facereel.tables.execute import LOG_FILE, is_done
from facereel.tables.figures import LEVEL, Figure, Figures
from facereel.tables.plan import Run, Table

NAMES = {
    "code_bytes": "bytes a gallery item",
    "nonfinite_steps": "skipped steps",
}


@dataclass
class Page:
    """All that is written of a table."""

    table: Table
    figures: Figures
    failed: dict[Run, str]
    runs: Path
    out: Path
    command: str
    links: bool

    def state(self, row: str, column: str) -> str:
        """What stands in place of a figure: no data, failed, or nothing yet."""
        runs = self.table.cells[row, column].runs
        if not runs:
            return "no data"
        return "failed" if any(run in self.failed for run in runs) else "-"


def write_table(page: Page) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.tex, each whole or not at all, and return their paths."""
    written = []
    for ending, text in (("md", _markdown(page)), ("csv", None), ("tex", _latex(page))):
        path = page.out / f"{page.table.name}.{ending}"
        with write_beside(path) as beside:
            if text is None:
                _write_csv(page, beside)
            else:
                beside.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _markdown(page: Page) -> str:
    table = page.table
    lines = [f"# {table.title}", ""]
    if table.note:
        lines += [table.note.strip(), ""]
    lines += [f"    {page.command}", ""]
    lines += [*_conditions(page), ""]
    for measure in (*table.tasks, *table.also):
        is_map = measure in table.tasks
        columns, rows = _grid(page, measure, _markdown_cell, _published)
        lines += [f"## {title_of(measure)}{', mAP' if is_map else ''}", ""]
        lines += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        lines += [f"| {row} | {' | '.join(texts)} |" for row, texts in rows.items()]
        lines.append("")
    lines += _legend(page)
    lines += [f"![{table.title}]({table.name}.svg)", ""]
    if page.failed:
        lines += ["## Failed", ""]
        for run, error in page.failed.items():
            name = run.folder(page.runs).name
            log = f" ([log]({_link(page, run)}/{LOG_FILE}))" if page.links else ""
            lines.append(f"- {name}: {error}{log}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _grid(
    page: Page, measure: str, cell: Callable[..., str], published: Callable[[Figure], str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Headings, and each row's texts.

    Behind a column is its published one where there are figures; without any an empty one is at the end.
    """
    table, is_map = page.table, measure in page.table.tasks
    found = [(column, figure) for (_, column, task), figure in page.figures.items() if task == measure]
    known = {column for column, figure in found if figure.published is not None}
    headings = []
    for column in table.columns:
        headings += [column, f"{column}, published"] if column in known else [column]
    ending = ["published"] if is_map and not known else []
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        rows[row] = []
        for column in table.columns:
            figure = page.figures.get((row, column, measure), Figure())
            rows[row].append(cell(page, row, column, figure, is_map))
            if column in known:
                rows[row].append("" if figure.published is None else published(figure))
        rows[row] += [""] * len(ending)
    return headings + ending, rows


def _markdown_cell(page: Page, row: str, column: str, figure: Figure, is_map: bool) -> str:
    if not figure.values:
        return page.state(row, column)
    if not is_map:
        return f"{figure.mean:g}"
    mean = f"**{figure.mean:.3f}**" if figure.is_best else f"{figure.mean:.3f}"
    spread = "" if figure.spread is None else f" ± {figure.spread:.3f}"
    like = " °" if figure.is_like_best else ""
    low, high = figure.interval or (figure.mean, figure.mean)
    links = ""
    if page.links:
        runs = [run for run in page.table.cells[row, column].runs if is_done(run, page.runs)]
        links = " " + " ".join(f"[{run.seed}]({_link(page, run)})" for run in runs)
    lacking = len(page.table.cells[row, column].runs) - len(figure.values)
    few = f", {lacking} failed" if lacking else ""
    return f"{mean}{spread}{like} ({low:.3f} to {high:.3f}{few}){links}"


def _published(figure: Figure) -> str:
    return f"{figure.published:.3f}" + (f" ({figure.published_source})" if figure.published_source else "")


def _link(page: Page, run: Run) -> str:
    return Path(os.path.relpath(run.folder(page.runs), page.out)).as_posix()


def _conditions(page: Page) -> list[str]:
    """What made the figures: protocol, seeds, weights, hardware, versions, commit, splits."""
    told: dict[str, list[str]] = {}
    for run in page.table.runs():
        if not is_done(run, page.runs):
            continue
        folder = run.folder(page.runs)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        about = json.loads((folder / "versions.json").read_text(encoding="utf-8"))
        facts = {
            "protocol": metrics["protocol"],
            "split": f"{metrics['split_sha256'][:12]} (seed {metrics['seed']})",
            "started from": None if run.base else metrics["weights"],
            "hardware": metrics["hardware"],
            "torch": metrics["versions"]["torch"],
            "facereel": f"{metrics['versions']['facereel']}, commit {about.get('commit') or 'unknown'}",
        }
        for name, value in facts.items():
            if value is not None and value not in told.setdefault(name, []):
                told[name].append(value)
    seeds = sorted({run.seed for run in page.table.runs()})
    lines = [f"- scale: {page.table.scale}; seeds {', '.join(map(str, seeds))}, each with a split of its own"]
    return [*lines, *(f"- {name}: {'; '.join(values)}" for name, values in told.items())]


def _legend(page: Page) -> list[str]:
    several = max((len(cell.runs) for cell in page.table.cells.values()), default=0) > 1
    text = "Each mAP is expected over ties, " + (
        "the mean over seeds ± its standard deviation (n - 1)" if several else "of one seed"
    )
    text += "; in brackets the 95 % interval of a bootstrap over people."
    if page.links:
        text += " The numbers behind link to the runs' folders, by seed."
    if page.table.compare_rows:
        text += (
            f" Bold is the best of a column. ° marks what is not significantly different from it: p of at least "
            f"{LEVEL} in a paired permutation test over people, adjusted by Holm's method for the rows of the column."
        )
    return [text, ""]


def _write_csv(page: Page, path: Path) -> None:
    header = ["row", "column", "figure", "mean", "std", "low", "high", "best", "p", "published", "published_source"]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "state", "seeds", "values", "runs"])
        for (row, column), cell in page.table.cells.items():
            for measure in (*page.table.tasks, *page.table.also):
                figure = page.figures.get((row, column, measure), Figure())
                low, high = figure.interval or (None, None)
                is_best = figure.is_best if page.table.compare_rows and figure.queries else None
                known = bool(figure.values)
                values = [figure.mean if known else None, figure.spread, low, high, is_best, figure.p, figure.published]
                state = "done" if known else page.state(row, column)
                seeds, each = zip(*figure.values.items(), strict=True) if known else ((), ())
                names = [run.folder(page.runs).name for run in cell.runs]
                lists = [" ".join(_csv_text(value) for value in several) for several in (seeds, each, names)]
                texts = [_csv_text(value) for value in values]
                writer.writerow([row, column, measure, *texts, figure.published_source, state, *lists])


def _csv_text(value: float | str | None) -> str:
    if isinstance(value, bool):
        value = int(value)
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)


def _latex(page: Page) -> str:
    """A booktabs table a figure, made smaller where it is wider than the text."""
    table = page.table
    blocks = [f"% {page.command}", "% \\usepackage{booktabs,graphicx}"]
    for measure in (*table.tasks, *table.also):
        is_map = measure in table.tasks
        columns, grid = _grid(page, measure, _latex_cell, lambda figure: f"{figure.published:.3f}")
        rows = [" & ".join([_escaped(row), *texts]) + r" \\" for row, texts in grid.items()]
        caption = f"{table.title}: {title_of(measure)}{', mAP' if is_map else ''}."
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\setlength{\belowcaptionskip}{6pt}",
                    rf"\caption{{{_escaped(caption)}}}",
                    rf"\label{{tab:{table.name}-{measure.replace('_', '-')}}}",
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                    rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
                    r"\toprule",
                    " & ".join(["", *map(_escaped, columns)]) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _latex_cell(page: Page, row: str, column: str, figure: Figure, is_map: bool) -> str:
    if not figure.values:
        return page.state(row, column)
    if not is_map:
        return f"{figure.mean:g}"
    mean = rf"\textbf{{{figure.mean:.3f}}}" if figure.is_best else f"{figure.mean:.3f}"
    like = r"$^\circ$" if figure.is_like_best else ""
    return mean + like + ("" if figure.spread is None else rf" {{\scriptsize$\pm$ {figure.spread:.3f}}}")


def title_of(measure: str) -> str:
    """What a task or figure is called in a heading."""
    return NAMES.get(measure, measure.replace("_", " "))


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "°": r"$^\circ$"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
