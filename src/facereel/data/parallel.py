"""Work in several processes."""

from __future__ import annotations

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
    """Run jobs in processes, a few ahead, and hand over each result as it comes.

    Args:
        work: a function that other processes can import.
        jobs: pairs of a key and the function's arguments.
        done: called here with the key and the result.
        n_workers: processes; 1 works in this one.

    Raises:
        UserError: if a process dies.
    """
    if n_workers <= 1:
        for key, arguments in jobs:
            done(key, work(*arguments))
        return
    # Not forked: OpenCV's threads do not survive that.
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
            "a process that cuts faces ended early: it ran out of memory (use fewer workers), or a script of your "
            'own lacks its `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; the parent says so
    cv2.setNumThreads(1)


def n_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
