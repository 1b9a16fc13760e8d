"""Engines that process many items: this process, or Ray workers."""

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol, TypeVar

from facereel.errors import Terminated, UserError, first_line
from facereel.parallel.pool import n_processors
from facereel.system.optional import import_ray

T = TypeVar("T")
R = TypeVar("R")

# Processors per worker. If each worker had a whole one, Ray Data would wait forever for its own.
_PROCESSORS = 0.9
# Seconds that workers have to start.
_PATIENCE_S = 120.0
# Attempts to start Ray. Its parts must start within 15 s, which a busy machine may exceed; no setting changes it.
# https://github.com/ray-project/ray/issues/65983
_STARTS = 3
# Seconds that a cluster has to answer.
_ANSWER_S = 10.0
# Retries, with a new worker, of an item after its worker died.
_RETRIES = 2
# Largest number of blocks. Ray sends items in blocks, of one item each unless there are more items than this.
_BLOCKS = 20_000
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
        n_workers: number of Ray workers; None for one per processor.

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
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray_address={address}: no Ray cluster answers there: {error}") from error


@dataclass(frozen=True)
class RayEngine:
    """Engine that uses a pool of Ray Data actors.

    Work and results are sent as pickles between the processes of Ray, so the cluster must be trusted. The workers read
    and write files on the machines of the cluster, which need a shared file system.

    Args:
        address: address of a cluster; None starts Ray on this machine for this process only.
        n_workers: largest number of workers; None for one per free processor.
    """

    address: str | None = None
    n_workers: int | None = None

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
        """Process items; see `Engine`.

        Args:
            work: function of one item; must be picklable.
            items: the items; must be picklable.

        Yields:
            Index and result of each item when it is done. The result is None if the worker died.

        Raises:
            UserError: if there is no cluster at the address, or no worker starts.
        """
        if not items:
            return
        missing = set(range(len(items)))
        with self._connected() as ray:
            n_workers = min(len(items), self.n_workers or max(1, int(ray.available_resources().get("CPU", 1))))
            try:
                for place, outcome in _outcomes(ray, work, items, n_workers):
                    if isinstance(outcome, Exception):
                        raise outcome
                    missing.discard(place)
                    yield place, outcome
            except ray.exceptions.GetTimeoutError as error:
                raise UserError(
                    f"{n_workers} Ray workers did not start within {_PATIENCE_S:.0f} s: the processors are busy; "
                    "use fewer workers, or try again later"
                ) from error
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"Ray failed: {why[-1]}; repeat the command to continue") from error
        for place in sorted(missing):
            yield place, None

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
            at = f"ray_address={self.address}: cannot use the cluster" if self.address else "cannot start Ray"
            raise UserError(f"{at}: {first_line(error)}") from error
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
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
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


class _Worker:
    """Actor that processes an item and returns its result or error; Ray Data would drop an item with an error."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed

    @cached_property
    def _work(self) -> Callable[[Any], Any]:
        work: Callable[[Any], Any] = pickle.loads(import_ray().get(self._packed))
        return work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            outcome: Any = self._work(pickle.loads(row["item"]))
        except (UserError, OSError) as error:
            outcome = error
        except ImportError as error:  # of a trusted class in the model
            outcome = UserError(
                f"a Ray worker cannot import a module that this process can: {error}; check its PYTHONPATH"
            )
        except Exception:  # its type may not be picklable
            outcome = RuntimeError(f"in a Ray worker: {traceback.format_exc()}")
        return {"place": row["place"], "outcome": pickle.dumps(outcome)}


def _outcomes(ray: ModuleType, work: Callable[[T], R], items: Sequence[T], n_workers: int) -> Iterator[tuple[int, Any]]:
    """Yield index and result or error of each item when it is done; nothing for an item if its workers died."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = _PATIENCE_S
    context.execution_no_progress_timeout_s = -1  # a film may take longer than the default, half an hour
    context.max_errored_blocks = -1
    rows = [{"place": place, "item": pickle.dumps(item)} for place, item in enumerate(items)]
    # One task per worker: a second one would wait for a long film while other workers are idle.
    pool = ray.data.ActorPoolStrategy(size=n_workers, max_tasks_in_flight_per_actor=1)
    items_in_blocks = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*ray_remote_args_fn"
        )  # removed in 2.64, which pyproject.toml excludes
        done = items_in_blocks.map(
            _Worker,
            fn_constructor_args=(ray.put(pickle.dumps(work)),),
            compute=pool,
            num_cpus=_PROCESSORS,
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},  # the default has no limit
        )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["place"], pickle.loads(row["outcome"])
