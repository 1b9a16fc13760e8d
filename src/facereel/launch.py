"""Starts the processes of a run on several devices of this machine, and ends them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import IO, Any

from facereel.data.parallel import n_processors
from facereel.processes import PARENT

# When one has failed, or a signal was handed on, the others have so many seconds to end by themselves, and as many
# again to end when asked. They may not: Lightning's handler of SIGTERM waits for processes that may be waiting for this
# one. Together less than the 30 s that SLURM leaves a job.
_GRACE = 10.0

# Exit code of a mistake of the user's, of which every process tells; the first one's line is enough.
_MISTAKE = 2


def launch(n: int, command: list[str]) -> int:
    """Run a command in n processes, each of which finds its place in its environment.

    The first writes to this process's streams. If one fails, the others are ended. SIGINT and SIGTERM are handed on to
    all, and those that do not end by themselves are ended too.

    Args:
        n: how many.
        command: a program and its arguments.

    Returns:
        The exit code: 0 if all ended so, else that of the first that failed.
    """
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        PARENT: str(os.getpid()),
    }
    # Or each would take all processors.
    threads = {"OMP_NUM_THREADS": str(max(1, n_processors() // n))}
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        errors: list[IO[bytes] | None] = []
        for i in range(n):
            file: IO[bytes] | None = stack.enter_context(tempfile.TemporaryFile()) if i else None
            errors.append(file)
            processes.append(
                subprocess.Popen(
                    command,
                    env={**threads, **os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if i else None,
                    stderr=file,
                    # Ctrl-C reaches this process alone, which hands it on once.
                    start_new_session=True,
                )
            )
        deadlines: list[float] = []
        hand_on = _hand_on(processes, deadlines)
        before = {kind: signal.signal(kind, hand_on) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            failed = _wait(processes, deadlines)
        finally:
            _end(processes)
            for kind, handler in before.items():
                signal.signal(kind, handler)
        failed = _failed(processes) if failed is None else failed
        if failed is None:
            return 0
        file = errors[failed]
        if file is not None and processes[0].returncode != _MISTAKE:
            file.seek(0)
            text = file.read().decode(errors="replace")
            print(f"process {failed} of {n} ended with {processes[failed].returncode}:\n{text}", file=sys.stderr)
        code = processes[failed].returncode
        return code if code > 0 else 128 - code


def _wait(processes: list[subprocess.Popen[bytes]], deadlines: list[float]) -> int | None:
    """Wait until all have ended, or until the first deadline; the number of the first that failed, or None.

    Args:
        processes: where one fails, the others get a deadline.
        deadlines: a signal adds one.
    """
    failed = None
    while any(process.poll() is None for process in processes) and not any(t < time.monotonic() for t in deadlines):
        time.sleep(0.05)
        if failed is None and (failed := _failed(processes)) is not None:
            deadlines.append(time.monotonic() + _GRACE)
    return _failed(processes) if failed is None else failed


def _failed(processes: list[subprocess.Popen[bytes]]) -> int | None:
    return next((i for i, process in enumerate(processes) if process.poll()), None)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _hand_on(processes: list[subprocess.Popen[bytes]], deadlines: list[float]) -> Any:
    def handler(kind: int, frame: Any) -> None:
        deadlines.append(time.monotonic() + _GRACE)
        for process in processes:
            if process.poll() is None:
                process.send_signal(kind)

    return handler


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
