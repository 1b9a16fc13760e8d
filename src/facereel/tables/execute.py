"""Execute the missing runs of a table, several at a time, each in a separate process."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from facereel.storage.files import file_lock
from facereel.tables.plan import Run

# Seconds between two checks of the processes.
_PAUSE_S = 0.2

LOG_FILE = "log.txt"
# The last file that a run writes.
DONE_FILE = "metrics.json"


@dataclass
class Working:
    """A run in progress."""

    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    lock: ExitStack
    started: float
    device: int


@dataclass
class State:
    """Progress of all runs."""

    total: int
    done: int
    failed: dict[Run, str] = field(default_factory=dict)
    """Last error line by run."""
    working: list[Working] = field(default_factory=list)
    seconds_left: float | None = None
    """Estimated time until the end; None until a run has finished."""


def execute(
    runs: Sequence[Run], folder: Path, n_workers: int, devices: Sequence[str], report: Callable[[State, str], None]
) -> dict[Run, str]:
    """Train and evaluate all runs that are not done.

    A run that was killed resumes from its last checkpoint. Several processes may work on one folder: a run's folder is
    locked while it is running. The child process inherits the lock, so the folder stays locked while either process
    writes.

    Args:
        runs: unique runs; the base of a run must be among them, before the run.
        folder: folder with the runs' folders.
        n_workers: number of runs at a time; the processor's threads are divided among them.
        devices: GPUs as in CUDA_VISIBLE_DEVICES, one per run in turn; if empty, the environment is not changed.
        report: called with the state and a line after every change, and regularly with an empty line.

    Returns:
        The last error line of each failed run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queue = _Queue(runs, folder, n_workers, devices, report)
    state = queue.state
    if state.done:
        report(state, f"{state.done} of {state.total} runs are already done")
    try:
        while queue.waiting or state.working:
            queue.collect()
            queue.start()
            report(state, "")
            time.sleep(_PAUSE_S)
    finally:
        for working in state.working:
            working.process.terminate()
        for working in state.working:
            working.process.wait()
            working.lock.close()
    return state.failed


class _Queue:
    """The runs that wait for a process, and the state of all runs."""

    def __init__(
        self,
        runs: Sequence[Run],
        folder: Path,
        n_workers: int,
        devices: Sequence[str],
        report: Callable[[State, str], None],
    ) -> None:
        self.folder = folder
        self.folders = {run: run.folder(folder) for run in runs}
        self.n_workers = n_workers
        self.devices = devices
        self.report = report
        self.waiting = [run for run in runs if not self.is_done(run)]
        self.state = State(len(runs), len(runs) - len(self.waiting))
        self.seconds: list[float] = []

    def is_done(self, run: Run) -> bool:
        return (self.folders[run] / DONE_FILE).is_file()

    def collect(self) -> None:
        """Remove finished processes from the state."""
        state = self.state
        for working in [w for w in state.working if w.process.poll() is not None]:
            state.working.remove(working)
            working.lock.close()
            seconds = time.monotonic() - working.started
            if self.is_done(working.run):
                state.done += 1
                self.seconds.append(seconds)
                n_left = len(self.waiting) + len(state.working)
                state.seconds_left = sum(self.seconds) / len(self.seconds) * n_left / self.n_workers
                self.report(state, f"{working.folder.name}: done in {seconds:.0f} s")
            else:
                error = last_line(working.folder) or f"exit code {working.process.returncode}"
                state.failed[working.run] = error
                self.report(state, f"{working.folder.name}: failed: {error}")

    def start(self) -> None:
        """Start waiting runs if their base is done and a worker is free; skip runs if their base failed."""
        state = self.state
        for run in list(self.waiting):
            name = self.folders[run].name
            if run.base in state.failed:
                self.waiting.remove(run)
                state.failed[run] = f"the base run failed: {state.failed[run.base]}"
                self.report(state, f"{name}: skipped, {state.failed[run]}")
            elif len(state.working) < self.n_workers and (run.base is None or self.is_done(run.base)):
                lock = ExitStack()
                self.folders[run].mkdir(parents=True, exist_ok=True)
                descriptors = lock.enter_context(file_lock(self.folders[run] / ".lock"))
                if descriptors is None:  # another process trains this run
                    continue
                self.waiting.remove(run)
                if self.is_done(run):
                    lock.close()
                    state.done += 1
                    self.report(state, f"{name}: done by another process")
                    continue
                state.working.append(self._working(run, lock, descriptors))
                self.report(state, f"{name}: started")

    def _working(self, run: Run, lock: ExitStack, descriptors: list[int]) -> Working:
        """Return a run with its started process, which inherits the lock."""
        # The number of threads affects rounding, so it is always the same.
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.n_workers))}
        used = {working.device for working in self.state.working}
        device = next((i for i in range(len(self.devices)) if i not in used), 0)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[device]
        folder = self.folders[run]
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "facereel", "train", *run.arguments(self.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=descriptors,
            )
        return Working(run, folder, process, lock, time.monotonic(), device)


def is_done(run: Run, folder: Path) -> bool:
    """Return whether a run below `folder` has its metrics, which are written last."""
    return (run.folder(folder) / DONE_FILE).is_file()


def last_line(folder: Path) -> str:
    """Return the last error in a run's log, or else the last line."""
    try:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("facereel: ") for line in lines if line.startswith("facereel: ")]
    return (errors or lines or [""])[-1]
