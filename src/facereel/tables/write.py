"""Write a table as Markdown, CSV and LaTeX."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facereel.storage.files import atomic_write
from facereel.tables.execute import LOG_FILE, is_done
from facereel.tables.plan import Run, Table
from facereel.tables.results import LEVEL, CellResult, Results

NAMES = {"code_bytes": "bytes per gallery item", "nonfinite_steps": "skipped steps"}


@dataclass
class Page:
    """A table with all information to write."""

    table: Table
    results: Results
    failed: dict[Run, str]
    """Last error line by run."""
    runs: Path
    """Folder with the runs' folders."""
    out: Path
    """Folder of the files to write."""
    command: str
    """The command that creates the table."""
    links: bool
    """Whether results link to their runs."""

    def state(self, row: str, column: str) -> str:
        """Return the text in place of a missing result."""
        runs = self.table.cells[row, column].runs
        if not runs:
            return "no data"
        return "failed" if any(run in self.failed for run in runs) else "-"


def write_table(page: Page) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.tex, each atomically.

    Args:
        page: the table.

    Returns:
        The paths of the files.
    """
    paths = [page.out / f"{page.table.name}.{ending}" for ending in ("md", "csv", "tex")]
    for path, write in zip(paths, (_write_markdown, _write_csv, _write_latex), strict=True):
        with atomic_write(path) as temporary:
            write(page, temporary)
    return paths


def _write_markdown(page: Page, path: Path) -> None:
    table = page.table
    lines = [f"# {table.title}", ""]
    if table.note:
        lines += [table.note.strip(), ""]
    lines += [f"    {page.command}", "", *_conditions(page), ""]
    for measure in table.measures():
        columns, rows = _grid(page, measure, _markdown_cell, _published)
        lines += [f"## {_heading(page, measure)}", ""]
        lines += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        lines += [f"| {row} | {' | '.join(texts)} |" for row, texts in rows.items()]
        lines.append("")
    lines += [_legend(page), "", f"![{table.title}]({table.name}.svg)", ""]
    if page.failed:
        lines += ["## Failed", ""]
        for run, error in page.failed.items():
            name = run.folder(page.runs).name
            log = f" ([log]({_link(page, run)}/{LOG_FILE}))" if page.links else ""
            lines.append(f"- {name}: {error}{log}")
        lines.append("")
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _grid(
    page: Page, measure: str, cell: Callable[..., str], published: Callable[[CellResult], str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the headings, and the texts of each row.

    A column with published results is followed by a column for them. If there are no published results, mAP has an
    empty last column for them.
    """
    table, is_map = page.table, measure in page.table.tasks
    found = [(column, result) for (_, column, task), result in page.results.items() if task == measure]
    known = {column for column, result in found if result.published is not None}
    headings = []
    for column in table.columns:
        headings += [column, f"{column}, published"] if column in known else [column]
    ending = ["published"] if is_map and not known else []
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        rows[row] = []
        for column in table.columns:
            result = page.results.get((row, column, measure), CellResult())
            if not result.values:
                text = page.state(row, column)
            else:
                text = cell(page, row, column, result) if is_map else f"{result.mean:g}"
            rows[row].append(text)
            if column in known:
                rows[row].append("" if result.published is None else published(result))
        rows[row] += [""] * len(ending)
    return headings + ending, rows


def _markdown_cell(page: Page, row: str, column: str, result: CellResult) -> str:
    mean = f"**{result.mean:.3f}**" if result.is_best else f"{result.mean:.3f}"
    spread = "" if result.spread is None else f" ± {result.spread:.3f}"
    like = " °" if result.is_like_best else ""
    low, high = result.interval or (result.mean, result.mean)
    runs = page.table.cells[row, column].runs
    n_failed = len(runs) - len(result.values)
    failed = f", {n_failed} failed" if n_failed else ""
    links = ""
    if page.links:
        links = " " + " ".join(f"[{run.seed}]({_link(page, run)})" for run in runs if is_done(run, page.runs))
    return f"{mean}{spread}{like} ({low:.3f} to {high:.3f}{failed}){links}"


def _published(result: CellResult) -> str:
    return f"{result.published:.3f}" + (f" ({result.published_source})" if result.published_source else "")


def _link(page: Page, run: Run) -> str:
    return Path(os.path.relpath(run.folder(page.runs), page.out)).as_posix()


def _conditions(page: Page) -> list[str]:
    """Return lines about the conditions of the runs: protocol, seeds, splits, weights, hardware, versions."""
    found: dict[str, list[str]] = {}
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
            if value is not None and value not in found.setdefault(name, []):
                found[name].append(value)
    seeds = sorted({run.seed for run in page.table.runs()})
    lines = [f"- scale: {page.table.scale}; seeds {', '.join(map(str, seeds))}, each with its own split"]
    return [*lines, *(f"- {name}: {'; '.join(values)}" for name, values in found.items())]


def _legend(page: Page) -> str:
    several = any(len(cell.runs) > 1 for cell in page.table.cells.values())
    seeds = "the mean over seeds ± standard deviation (n - 1)" if several else "of one seed"
    text = (
        f"mAP is the expectation over ties, {seeds}, with the 95% interval of a bootstrap over people in parentheses."
    )
    if page.links:
        text += " The numbers after the interval are seeds and link to the runs' folders."
    if page.table.compare_rows:
        text += (
            f" Bold is the best of a column. ° marks results that are not significantly different from it: p of at "
            f"least {LEVEL} in a paired permutation test over people, adjusted by Holm's method for the rows of the "
            "column."
        )
    return text


def _write_csv(page: Page, path: Path) -> None:
    header = ["row", "column", "measure", "mean", "std", "low", "high", "best", "p", "published", "published_source"]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "state", "seeds", "values", "runs"])
        for (row, column), cell in page.table.cells.items():
            for measure in page.table.measures():
                result = page.results.get((row, column, measure), CellResult())
                low, high = result.interval or (None, None)
                is_best = result.is_best if page.table.compare_rows and result.queries else None
                mean = result.mean if result.values else None
                numbers = [mean, result.spread, low, high, is_best, result.p, result.published]
                state = "done" if result.values else page.state(row, column)
                names = [run.folder(page.runs).name for run in cell.runs]
                lists = [" ".join(map(_csv_text, each)) for each in (result.values, result.values.values(), names)]
                texts = [_csv_text(number) for number in numbers]
                writer.writerow([row, column, measure, *texts, result.published_source, state, *lists])


def _csv_text(value: float | str | None) -> str:
    if isinstance(value, bool):
        value = int(value)
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)


def _write_latex(page: Page, path: Path) -> None:
    """Write a booktabs table for each metric, scaled down if it is wider than the text."""
    table = page.table
    blocks = [f"% {page.command}", "% \\usepackage{booktabs,graphicx}"]
    for measure in table.measures():
        columns, grid = _grid(page, measure, _latex_cell, lambda result: f"{result.published:.3f}")
        lines = [
            r"\begin{table}",
            r"\centering\setlength{\belowcaptionskip}{6pt}",
            rf"\caption{{{_escaped(f'{table.title}: {_heading(page, measure)}.')}}}",
            rf"\label{{tab:{table.name}-{measure.replace('_', '-')}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(["", *map(_escaped, columns)]) + r" \\",
            r"\midrule",
            *(" & ".join([_escaped(row), *texts]) + r" \\" for row, texts in grid.items()),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _latex_cell(page: Page, row: str, column: str, result: CellResult) -> str:
    mean = rf"\textbf{{{result.mean:.3f}}}" if result.is_best else f"{result.mean:.3f}"
    like = r"$^\circ$" if result.is_like_best else ""
    return mean + like + ("" if result.spread is None else rf" {{\scriptsize$\pm$ {result.spread:.3f}}}")


def _heading(page: Page, measure: str) -> str:
    return title_of(measure) + (", mAP" if measure in page.table.tasks else "")


def title_of(measure: str) -> str:
    """Return the name of a task or another metric for a heading."""
    return NAMES.get(measure, measure.replace("_", " "))


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "°": r"$^\circ$"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
