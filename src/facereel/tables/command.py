"""The reproduce command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid

from facereel.clock import clock
from facereel.console import Console
from facereel.errors import UserError
from facereel.tables.execute import State, execute, last_line
from facereel.tables.figures import gather, read_published
from facereel.tables.plan import plan
from facereel.tables.plot import write_plot
from facereel.tables.write import Page, write_table

console = Console(highlight=False, soft_wrap=True)


def reproduce(cfg: DictConfig, extra: Sequence[str], command: str) -> None:
    """Run what a table lacks and write it.

    Args:
        cfg: as composed from configs/reproduce.yaml.
        extra: overrides of every run.
        command: how it was called, said in the table.

    Raises:
        UserError: for a mistake in the configuration, or if runs failed, behind the table that says so.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    table = plan(settings["table"], cfg.scale, settings["sources"], settings["seeds"], extra)
    out = Path(cfg.out)
    runs = out / "runs"
    devices = _gpus()
    n_workers = cfg.workers if cfg.workers is not None else len(devices) or os.cpu_count() or 1
    if type(n_workers) is not int or n_workers < 1:
        raise UserError(f"workers={cfg.workers}: must be a whole number of at least 1, or null")
    if cfg.published is not None:
        read_published(Path(cfg.published), table, {})  # before hours of work
    console.print(f"{table.title}: {len(table.runs())} runs at scale={table.scale}, {n_workers} at once, in {out}")
    for title in dict.fromkeys(cell.row for cell in table.cells.values() if not cell.runs):
        lacking = [cell.column for cell in table.cells.values() if cell.row == title and not cell.runs]
        console.print(f"note: no data for {title} in {', '.join(lacking)}: see sources in facereel reproduce --cfg job")
    with _progress() as tell:
        failed = execute(table.runs(), runs, n_workers, devices, tell)
    figures = gather(table, runs)
    if cfg.published is not None:
        read_published(Path(cfg.published), table, figures)
    out.mkdir(parents=True, exist_ok=True)
    written = write_table(Page(table, figures, failed, runs, out, command, bool(cfg.links)))
    write_plot(table, figures, runs, out / f"{table.name}.svg")
    console.print(f"table: {', '.join(map(str, written))} and {out / f'{table.name}.svg'}")
    if failed:
        first = next(iter(failed.values()))
        raise UserError(
            f"{len(failed)} of {len(table.runs())} runs failed; the first: {first}; {written[0]} has them all"
        )


def _gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def _progress() -> Iterator[Any]:
    """Lines of what started and ended; in a terminal also what every run says, and the time left."""
    if not console.is_terminal:

        def line(state: State, text: str) -> None:
            if text:
                console.print(f"[{_count(state)}] {text}", markup=False)

        yield line
        return
    with Live(console=console, refresh_per_second=2, transient=True) as live:

        def show(state: State, text: str) -> None:
            if text:
                live.console.print(text, markup=False)
            grid = Grid.grid(padding=(0, 2))
            for working in state.working:
                grid.add_row(working.folder.name, last_line(working.folder)[:100])
            bar = ProgressBar(total=max(1, state.total), completed=state.done + len(state.failed), width=40)
            live.update(Group(bar, _count(state), grid))

        yield show


def _count(state: State) -> str:
    left = "" if state.seconds_left is None else f", about {clock(state.seconds_left)} left"
    failed = f", {len(state.failed)} failed" if state.failed else ""
    return f"{state.done} of {state.total}{failed}{left}"
