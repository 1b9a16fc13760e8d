"""Show the progress of long work: a bar in a terminal, otherwise a line every half minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from facereel.system.console import console

_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def show_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of work.

    Args:
        text: name of the work, and the unit of its items.

    Yields:
        A function to call with the number of items done since the last call, and the total number.
    """
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn(text, markup=False), *columns, console=console, transient=True) as progress:
            task = progress.add_task(text)
            yield lambda done, of: progress.update(task, advance=done, total=of)
        return
    started = printed = time.monotonic()
    total = 0
    before: int | None = None

    def advance(done: int, of: int) -> None:
        nonlocal printed, total, before
        total += done
        # The first call may report items of an earlier run, which do not show the speed.
        before = total if before is None else before
        if (now := time.monotonic()) - printed >= _SECONDS_BETWEEN_LINES:
            printed = now
            left = (now - started) * (of - total) / max(1, total - before) / 60
            console.print(f"{text}: {total} of {of}, about {left:.0f} minutes left")

    yield advance
