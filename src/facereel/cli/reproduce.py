"""The reproduce command."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import format_timestamp

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from facereel.tables.execute import State


def reproduce_command(context: typer.Context) -> None:
    """Train and evaluate all runs of a table, and write it as Markdown, CSV, LaTeX and a plot.

    You can stop it and run it again: it continues, and repeats no run.

    Example: facereel reproduce table=pooling scale=smoke out=tables

    All options: facereel reproduce --cfg job. Other keys, such as trainer=cpu, apply to every run.
    """
    from omegaconf import OmegaConf

    from facereel.config.compose import compose_config, config_dir, one_line_errors
    from facereel.config.overrides import readable, refuse_options

    file = config_dir() / "reproduce.yaml"
    if context.args == ["--cfg", "job"]:
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    refuse_options(context.args)
    if words := [argument for argument in context.args if "=" not in argument]:
        raise UserError(f"{words[0]}: configure with key=value")
    with one_line_errors():
        given = [readable(argument) for argument in context.args]
        own_keys = ("table", *OmegaConf.load(file))
        own = [argument for argument in given if re.split(r"[.=]", argument)[0] in own_keys]
        extra = [argument for argument in given if argument not in own]
        cfg = compose_config("reproduce", own)
        cfg.out = str(Path(cfg.out).expanduser().absolute())
        compose_config("train", extra)  # a mistake in them would fail every run
        reproduce(cfg, extra, shlex.join(["facereel", "reproduce", *context.args]))


def reproduce(cfg: DictConfig, extra: Sequence[str], command: str) -> None:
    """Train and evaluate the missing runs of a table, and write it.

    Args:
        cfg: the configuration, composed from configs/reproduce.yaml.
        extra: overrides for every run.
        command: the command line, which the written table shows.

    Raises:
        UserError: if the configuration has a mistake, or a run failed; the table is written first.
    """
    from omegaconf import OmegaConf

    from facereel.tables.execute import execute
    from facereel.tables.plan import plan
    from facereel.tables.plot import write_plot
    from facereel.tables.results import collect_results, read_published
    from facereel.tables.write import Page, write_table

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    table = plan(settings["table"], cfg.scale, settings["sources"], settings["seeds"], extra, settings["rows"])
    out = Path(cfg.out)
    runs = out / "runs"
    devices = _gpus()
    n_workers = cfg.workers or len(devices) or os.cpu_count() or 1
    if cfg.published is not None:
        read_published(Path(cfg.published), table, {})  # report mistakes before hours of work
    console.print(f"{table.title}: {len(table.runs())} runs at scale={table.scale}, {n_workers} at a time, in {out}")
    for title in dict.fromkeys(cell.row for cell in table.cells.values() if not cell.runs):
        lacking = [cell.column for cell in table.cells.values() if cell.row == title and not cell.runs]
        console.print(f"note: no data for {title} in {', '.join(lacking)}: see sources in facereel reproduce --cfg job")
    with _progress() as report:
        failed = execute(table.runs(), runs, n_workers, devices, report)
    results = collect_results(table, runs)
    if cfg.published is not None:
        read_published(Path(cfg.published), table, results)
    out.mkdir(parents=True, exist_ok=True)
    written = write_table(Page(table, results, failed, runs, out, command, bool(cfg.links)))
    write_plot(table, results, runs, out / f"{table.name}.svg")
    console.print(f"table: {', '.join(map(str, written))} and {out / f'{table.name}.svg'}")
    if failed:
        first = next(iter(failed.values()))
        raise UserError(f"{len(failed)} of {len(table.runs())} runs failed; the first: {first}; {written[0]} lists all")


def _gpus() -> list[str]:
    """Return the available GPUs, named as in CUDA_VISIBLE_DEVICES."""
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def _progress() -> Iterator[Any]:
    """Yield a function that prints progress: in a terminal also each run's last line and the time left."""
    if not console.is_terminal:

        def print_line(state: State, text: str) -> None:
            if text:
                console.print(f"[{_count(state)}] {text}")

        yield print_line
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid

    from facereel.tables.execute import last_line

    with Live(console=console, refresh_per_second=2, transient=True) as live:

        def show(state: State, text: str) -> None:
            if text:
                live.console.print(text)
            grid = Grid.grid(padding=(0, 2))
            for working in state.working:
                grid.add_row(working.folder.name, last_line(working.folder)[:100])
            bar = ProgressBar(total=max(1, state.total), completed=state.done + len(state.failed), width=40)
            live.update(Group(bar, _count(state), grid))

        yield show


def _count(state: State) -> str:
    left = "" if state.seconds_left is None else f", about {format_timestamp(state.seconds_left)} left"
    failed = f", {len(state.failed)} failed" if state.failed else ""
    return f"{state.done} of {state.total}{failed}{left}"
