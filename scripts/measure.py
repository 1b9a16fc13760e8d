"""What the benchmarks share: their heading, and times taken side by side."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from facereel.environment import hardware, versions


def heading() -> str:
    """Hardware, threads, versions and commit, for the first line of a benchmark."""
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    commit = run.stdout.strip() or "unknown"
    return f"{hardware()}; {torch.get_num_threads()} threads; torch {versions()['torch']}; commit {commit}"


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
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """End the program, with 1 if a target was missed."""
        sys.exit("missed: " + "; ".join(self.missed) if self.missed else 0)


def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int = 5, seconds: float = 0.2) -> dict[str, float]:
    """Time calls side by side: in every round each has its turn of about so many seconds, at least three calls.

    Returns:
        The median of each over all rounds, in milliseconds; the first call of a turn does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            turn, n_calls = time.perf_counter(), 0
            while n_calls < 3 or time.perf_counter() - turn < seconds:
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
                n_calls += 1
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def warm_allocator() -> None:
    """Free some tensors of 30 MB: glibc keeps freed memory from then on, as in any process that has trained."""
    for _ in range(3):
        torch.zeros(30 * 2**18)
