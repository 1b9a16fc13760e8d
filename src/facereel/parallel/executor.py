"""Engines that process many items: this process, or Ray workers."""

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, TypeVar

from facereel.errors import Terminated, UserError, first_line
from facereel.parallel.pool import n_processors
from facereel.system.optional import import_ray

T = TypeVar("T")
R = TypeVar("R")

# Seconds that the first worker has to start.
_PATIENCE_S = 120.0
# Attempts to start Ray. Its parts must start within 15 s, which a busy machine may exceed; no setting changes it.
# https://github.com/ray-project/ray/issues/65983
_STARTS = 3
# Seconds that a cluster has to answer.
_ANSWER_S = 10.0
# Seconds between two checks of the head of the cluster. If it is lost for a minute, Ray aborts this process.
_CHECK_S = 5.0
# Retries, on any machine, of an item after its worker died or its machine failed.
_RETRIES = 2
# Largest number of items that Ray has at a time.
_AHEAD = 1000
# Size of Ray's object store, at least 75 MiB. Results are small; Ray's default is a third of the memory.
_STORE_BYTES = 200 * 2**20

LOST = f"its worker died {_RETRIES + 1} times: it may have run out of memory"


class Engine(Protocol):
    """Protocol of a function that processes items, possibly several at a time and in any order."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
        """Process items.

        Args:
            work: function of one item.
            items: the items.

        Yields:
            Index and result of each item when it is done. The result is None if the worker died.
        """


def local(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
    """Process items one after the other in this process; an `Engine`.

    Args:
        work: function of one item.
        items: the items.

    Yields:
        Index and result of each item.
    """
    for place, item in enumerate(items):
        yield place, work(item)


def in_order(results: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Yield the results of an engine in the order of the items, each as early as possible.

    Args:
        results: indices and results, in any order.
    """
    early: dict[int, R] = {}
    due = 0
    for place, result in results:
        early[place] = result
        while due in early:
            yield early.pop(due)
            due += 1


def make_engine(name: str, ray_address: str | None = None, n_workers: int | None = None) -> Engine:
    """Build an engine.

    Args:
        name: "local" or "ray".
        ray_address: HOST:PORT of a Ray cluster, or "auto" for the one on this machine; None uses the environment
            variable RAY_ADDRESS, and without it starts Ray for the duration of the work.
        n_workers: largest number of Ray workers; None for one per processor.

    Returns:
        The engine.

    Raises:
        UserError: if the name is unknown, an address is given without Ray, or Ray is not installed.
    """
    if name == "ray":
        ray_address = ray_address or os.environ.get("RAY_ADDRESS") or None
        _import_ray(ray_address)
        if ray_address is not None:
            _check_address(ray_address)
        return RayEngine(ray_address, n_workers)
    if name != "local":
        raise UserError(f"engine={name}: must be local or ray")
    if ray_address:
        raise UserError(f"ray_address={ray_address}: needs engine=ray")
    return local


def _import_ray(address: str | None) -> ModuleType:
    if address is None and "ray" not in sys.modules:
        # Ray's ports accept connections from the whole network; the token excludes others. Ray reads it when imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return import_ray()


def _check_address(address: str) -> None:
    """Check that a server answers at an address; Ray itself would retry for minutes.

    Raises:
        UserError: if the address is invalid, or nothing answers.
    """
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():
        raise UserError(f"ray_address={address}: must be HOST:PORT, as printed by ray start, or auto")
    try:
        _reach(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"ray_address={address}: no Ray cluster answers there: {error}") from error


def _check_head(address: str) -> None:
    """Check that the head of a cluster in use can be reached.

    Raises:
        UserError: if it cannot.
    """
    try:
        _reach(address)
    except OSError as error:
        raise UserError(
            f"the head of the Ray cluster at {address} is lost: {error}; finished work is kept. Start Ray again, and "
            "run the same command again"
        ) from error


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


@dataclass(frozen=True)
class RayEngine:
    """Engine that runs a Ray task for each item.

    Work and results are sent as pickles between the processes of Ray, so the cluster must be trusted. The workers read
    and write files on the machines of the cluster, which need a shared file system.

    If the caller has initialized Ray, up to 1000 items that it has already are processed even after an error. They are
    not canceled: `ray.cancel` of Ray 2.60 aborts the process if a task ends at that moment.

    Args:
        address: address of a cluster; None starts Ray on this machine for this process only.
        n_workers: largest number of workers; None for one per processor.
    """

    address: str | None = None
    n_workers: int | None = None

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
        """Process items; see `Engine`.

        Args:
            work: function of one item; must be picklable.
            items: the items; must be picklable.

        Yields:
            Index and result of each item when it is done. The result is None if the worker died with every retry.

        Raises:
            UserError: if there is no cluster at the address, no worker starts, or the head of the cluster is lost.
        """
        if not items:
            return
        with self._connected() as ray:
            head = ray.get_runtime_context().gcs_address
            try:
                yield from self._outcomes(ray, head, work, items)
            except ray.exceptions.GetTimeoutError as error:
                raise UserError(
                    f"no Ray worker started within {_PATIENCE_S:.0f} s: no processor is free; try again later"
                ) from error
            except ray.exceptions.RayError as error:
                _check_head(head)
                why = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"Ray failed: {why[-1]}; repeat the command to continue") from error
            except SystemError as error:  # Ray turns the exception of a signal handler, such as Terminated, into this
                raise (error.__cause__ or error) from None

    def _outcomes(
        self, ray: ModuleType, head: str, work: Callable[[T], R], items: Sequence[T]
    ) -> Iterator[tuple[int, R | None]]:
        errors = ray.exceptions
        lost = errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError, errors.OutOfMemoryError
        ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=_PATIENCE_S)
        task = ray.remote(num_cpus=1, max_retries=0)(_run)  # Ray's own retries have no limit if memory runs out
        packed = ray.put(pickle.dumps(work))
        waiting = deque((place, _RETRIES) for place in range(len(items)))
        running: dict[Any, tuple[int, int]] = {}
        due = 0.0
        while waiting or running:
            while waiting and len(running) < (self.n_workers or _AHEAD):
                place, retries = waiting.popleft()
                running[task.remote([packed], pickle.dumps(items[place]))] = place, retries
            done, _ = ray.wait(list(running), timeout=_CHECK_S)
            for result in done:
                place, retries = running.pop(result)
                try:
                    outcome = pickle.loads(ray.get(result))
                except lost:
                    if retries:
                        waiting.append((place, retries - 1))
                        continue
                    outcome = None
                if isinstance(outcome, Exception):
                    raise outcome
                yield place, outcome
            if time.monotonic() > due:
                _check_head(head)
                due = time.monotonic() + _CHECK_S

    @contextmanager
    def _connected(self) -> Iterator[ModuleType]:
        ray = _import_ray(self.address)
        if ray.is_initialized():  # by the caller
            yield ray
            return
        where: dict[str, Any] = {"address": self.address}
        if self.address is None:
            where = {
                "address": "local",
                "num_cpus": max(self.n_workers or 1, n_processors()),
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            _start(ray, where, 1 if self.address else _STARTS)
        except Exception as error:  # Ray raises errors of all kinds, including Exception itself
            why = first_line(error)
            if self.address is None:
                raise UserError(f"cannot start Ray: {why}") from error
            raise UserError(
                f"ray_address={self.address}: cannot use the cluster: {why}. This machine must be one of the cluster, "
                "with its versions of Ray and Python, and its token (RAY_AUTH_MODE=token)"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _start(ray: ModuleType, where: dict[str, Any], tries: int) -> None:
    """Start Ray or connect to it, and restore the SIGTERM handler, which Ray replaces.

    Raises:
        Terminated: if SIGTERM arrives in the meantime.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _no_stderr():  # Ray would print there that it does not log
            ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
        ray._private.worker.print_to_stdstream = lambda *_, **__: None  # it would print the log of a lost machine
    except SystemExit as stop:  # Ray turns SIGTERM into this
        raise Terminated from stop
    except Exception:
        if tries == 1:
            raise
        _start(ray, where, tries - 1)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard what C++ code writes to stderr."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _run(packed: list[Any], item: bytes) -> bytes:
    """Return the result or error of an item; executed in a worker."""
    try:
        outcome: Any = _unpack(*packed)(pickle.loads(item))
    except (UserError, OSError) as error:
        outcome = error
    except ImportError as error:  # of a trusted class in the model
        outcome = UserError(f"a Ray worker cannot import a module that this process can: {error}; check its PYTHONPATH")
    except Exception:  # its type may not be picklable
        outcome = RuntimeError(f"in a Ray worker: {traceback.format_exc()}")
    return pickle.dumps(outcome)


@lru_cache(maxsize=1)
def _unpack(packed: Any) -> Callable[[Any], Any]:
    work: Callable[[Any], Any] = pickle.loads(import_ray().get(packed))
    return work
