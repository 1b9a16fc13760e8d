"""What the benchmarks share: their heading, and times taken side by side."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from facereel.environment import commit, hardware, versions
from facereel.files import write_beside


def heading() -> str:
    """Hardware, threads, versions and commit, for the first line of a benchmark."""
    used = f"{torch.get_num_threads()} used by torch {versions()['torch']}"
    return f"{hardware()}; {used}; commit {commit() or 'unknown'}"


class Report:
    """What a benchmark prints line by line and writes as a page, and the targets it missed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.missed: list[str] = []

    def say(self, line: str = "") -> None:
        """Print a line and keep it for the page."""
        print(line, flush=True)
        self.lines.append(line)

    def target(self, text: str, met: bool) -> None:
        """Say what was aimed at and found, and whether that is enough."""
        self.say(f"- {text}: {'met' if met else '**missed**'}")
        if not met:
            self.missed.append(text)

    def write(self, path: Path) -> None:
        """Write the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(path) as beside:
            beside.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """End the program, with 1 if a target was missed."""
        sys.exit("missed: " + "; ".join(self.missed) if self.missed else 0)


class Times(dict[str, list[float]]):
    """Of each call the median of every round, in milliseconds."""

    def median(self, name: str) -> float:
        """Milliseconds over all rounds."""
        return statistics.median(self[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times longer one takes than the other: the median of each round's ratio, which slow spells leave."""
        return statistics.median(a / b for a, b in zip(self[name], self[other], strict=True))


def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int = 5, seconds: float = 0.2) -> Times:
    """Time calls side by side: in every round each has its turn of about so many seconds, at least three calls.

    The first call of a turn does not count.
    """
    times = Times({name: [] for name in calls})
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            turn: list[float] = []
            while len(turn) < 3 or sum(turn) < seconds:
                started = time.perf_counter()
                call()
                turn.append(time.perf_counter() - started)
            times[name].append(1000 * statistics.median(turn))
    return times


def warm_allocator() -> None:
    """Free some tensors of 30 MB: glibc keeps freed memory from then on, as in any process that has trained."""
    for _ in range(3):
        torch.zeros(30 * 2**18)
