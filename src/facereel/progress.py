"""How far a long piece of work is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Work that is done sooner shows nothing; between two lines so many seconds pass.
_SECONDS = 30.0


@contextmanager
def advancing(text: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how many more pieces are done, and of how many."""
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn(text), *columns, console=console, transient=True) as progress:
            task = progress.add_task(text)
            yield lambda done, of: progress.update(task, advance=done, total=of)
        return
    started = said = time.monotonic()
    total = 0
    before: int | None = None

    def line(done: int, of: int) -> None:
        nonlocal said, total, before
        total += done
        # What is told first may have been done in an earlier run; it says nothing of the pace.
        before = total if before is None else before
        if (now := time.monotonic()) - said >= _SECONDS:
            said = now
            left = (now - started) * (of - total) / max(1, total - before) / 60
            console.print(f"{text}: {total} of {of}, about {left:.0f} minutes left")

    yield line
