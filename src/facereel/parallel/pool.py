"""A pool of processes."""

import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import cv2

from facereel.errors import UserError


def run_jobs(
    work: Callable[..., Any],
    jobs: Iterable[tuple[Any, tuple[Any, ...]]],
    done: Callable[[Any, Any], object],
    n_workers: int,
) -> None:
    """Run jobs in several processes; few jobs are read ahead.

    Args:
        work: a function that other processes can import.
        jobs: pairs of a key and the function's arguments.
        done: function that this process calls with the key and the result of each job when it ends.
        n_workers: number of processes; 1 uses this process.

    Raises:
        UserError: if a process dies.
    """
    if n_workers <= 1:
        for key, arguments in jobs:
            done(key, work(*arguments))
        return
    # OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(n_workers, get_context("spawn"), initializer=_start_worker)
    pending: dict[Future[Any], Any] = {}

    def collect(at_most: int) -> None:
        while len(pending) > at_most:
            future = next(as_completed(pending))
            done(pending.pop(future), future.result())

    try:
        for key, arguments in jobs:
            pending[pool.submit(work, *arguments)] = key
            collect(2 * n_workers)
        collect(0)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died: it ran out of memory (use fewer workers), or your script lacks "
            '`if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; the parent reports it
    cv2.setNumThreads(1)


def n_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
