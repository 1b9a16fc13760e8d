"""Functions shared by the benchmarks: options, heading, report, and timing of calls in turns."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from facereel.storage.files import atomic_write
from facereel.system.environment import commit, hardware, versions


def benchmark_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with a module's docstring as help, and the option --out, the folder of the page."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmarks"), help="folder of the page")
    return parser


def heading() -> str:
    """Return hardware, threads, version and commit, for the first line of a page."""
    used = f"{torch.get_num_threads()} used by torch {versions()['torch']}"
    return f"{hardware()}; {used}; commit {commit() or 'unknown'}"


class Report:
    """Lines of a benchmark, which are printed and written as a page, and its missed targets."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.missed: list[str] = []

    def say(self, line: str = "") -> None:
        """Print a line and keep it for the page."""
        print(line, flush=True)
        self.lines.append(line)

    def target(self, text: str, met: bool) -> None:
        """Print a target with its measurement, and whether it is met."""
        self.say(f"- {text}: {'met' if met else '**missed**'}")
        if not met:
            self.missed.append(text)

    def write(self, path: Path) -> None:
        """Write the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """Exit, with code 1 if a target was missed."""
        sys.exit("missed: " + "; ".join(self.missed) if self.missed else 0)


class Times(dict[str, list[float]]):
    """Medians of every round of each call, in milliseconds."""

    def median(self, name: str) -> float:
        """Return the median of all rounds in milliseconds."""
        return statistics.median(self[name])

    def ratio(self, name: str, other: str) -> float:
        """Return the median over rounds of the ratio of two calls, robust to temporary slowness of the machine."""
        return statistics.median(a / b for a, b in zip(self[name], self[other], strict=True))


def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int = 5, seconds: float = 0.2) -> Times:
    """Time calls in turns.

    Args:
        calls: the calls by name.
        rounds: number of turns of each call.
        seconds: length of a turn, which has at least three calls after a warm-up call.

    Returns:
        The median of each turn.
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
    """Free some tensors of 30 MB, after which glibc keeps freed memory, as in a process that has trained."""
    for _ in range(3):
        torch.zeros(30 * 2**18)
