"""Run what a table lacks, several runs at a time, each in a process of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from facereel.tables.plan import Run

# Between two looks at the processes, in seconds.
_PAUSE = 0.2

# A run's output, and the last words of one that failed.
LOG_FILE = "log.txt"
DONE_FILE = "metrics.json"


@dataclass
class Working:
    """A run that goes on."""

    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    lock: IO[str]
    started: float
    device: int


@dataclass
class State:
    """What is told after every change."""

    total: int
    done: int
    failed: dict[Run, str]
    working: list[Working]
    seconds_left: float | None
    """None until a run has ended."""


def execute(
    runs: Sequence[Run], folder: Path, n_workers: int, devices: Sequence[str], tell: Callable[[State, str], None]
) -> dict[Run, str]:
    """Train and evaluate all runs that are not done, those first that others start from.

    A run that was killed goes on from its last checkpoint. Several processes may work on one folder: a run is locked
    while one is at it, and the lock is its child's too, so that it holds as long as anybody writes there.

    Args:
        runs: each once; the base of a run is among them, before it.
        folder: of the runs' folders.
        n_workers: runs at once, of as many threads each as then fall to it.
        devices: of GPUs, as CUDA_VISIBLE_DEVICES names them, one a run in turn; empty leaves the environment as it is.
        tell: called with the state and a line whenever something changed, and with an empty line now and then.

    Returns:
        By failed run, what it said last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folders = {run: run.folder(folder) for run in runs}
    waiting = [run for run in runs if not _has_ended(folders[run])]
    state = State(len(runs), len(runs) - len(waiting), {}, [], None)
    took: list[float] = []
    if state.done:
        tell(state, f"{state.done} of {state.total} runs were done before")
    try:
        while waiting or state.working:
            for working in [w for w in state.working if w.process.poll() is not None]:
                state.working.remove(working)
                working.lock.close()
                seconds = time.monotonic() - working.started
                name = working.folder.name
                if _has_ended(working.folder):
                    state.done += 1
                    took.append(seconds)
                    state.seconds_left = _left(took, len(waiting) + len(state.working), n_workers)
                    tell(state, f"{name}: done in {seconds:.0f} s")
                else:
                    state.failed[working.run] = last_line(working.folder) or f"ended with {working.process.returncode}"
                    tell(state, f"{name}: failed: {state.failed[working.run]}")
            for run in list(waiting):
                if run.base in state.failed:
                    waiting.remove(run)
                    state.failed[run] = f"the run it starts from failed: {state.failed[run.base]}"
                    tell(state, f"{folders[run].name}: left out, {state.failed[run]}")
                elif len(state.working) < n_workers and (run.base is None or _has_ended(folders[run.base])):
                    lock = _locked(folders[run])
                    if lock is None:  # another process is at it
                        continue
                    waiting.remove(run)
                    if _has_ended(folders[run]):
                        lock.close()
                        state.done += 1
                        tell(state, f"{folders[run].name}: done by another process")
                        continue
                    state.working.append(_start(run, folder, lock, n_workers, devices, state.working))
                    tell(state, f"{folders[run].name}: starts")
            tell(state, "")
            time.sleep(_PAUSE)
    finally:
        for working in state.working:
            working.process.terminate()
        for working in state.working:
            working.process.wait()
            working.lock.close()
    return state.failed


def is_done(run: Run, folder: Path) -> bool:
    """Whether a run has its metrics, which are written last."""
    return _has_ended(run.folder(folder))


def _has_ended(folder: Path) -> bool:
    return (folder / DONE_FILE).is_file()


def last_line(folder: Path) -> str:
    """The last line of a run's log, that of its error if there is one."""
    try:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("facereel: ") for line in lines if line.startswith("facereel: ")]
    return (errors or lines or [""])[-1]


def _start(
    run: Run, folder: Path, lock: IO[str], n_workers: int, devices: Sequence[str], working: Sequence[Working]
) -> Working:
    own = run.folder(folder)
    # The same number of threads whatever runs beside it: sums over threads are rounded by it.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // n_workers))}
    free = [i for i in range(len(devices)) if i not in {w.device for w in working}]
    device = free[0] if free else 0
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[device]
    with (own / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "facereel", "train", *run.arguments(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[lock.fileno()],
        )
    return Working(run, own, process, lock, time.monotonic(), device)


def _locked(folder: Path) -> IO[str] | None:
    """Lock a run's folder; None if somebody has."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _left(took: Sequence[float], n_runs: int, n_workers: int) -> float:
    return sum(took) / len(took) * n_runs / n_workers
