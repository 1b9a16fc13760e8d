"""What does the work of a command on many videos: this process, or the workers of Ray."""

from __future__ import annotations

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

from facereel.errors import Terminated, UserError
from facereel.optional import import_ray

T = TypeVar("T")
R = TypeVar("R")

# A worker asks for a little less than a processor: with as many workers as processors nothing would be left for what
# Ray Data itself may run, and it would wait for ever without a word.
_PROCESSORS = 0.9
# By when all workers must have started, in seconds.
_PATIENCE_S = 120.0
# Ray gives its own parts 15 s to start, whatever one sets, which a busy machine does not keep: tried so many times.
# https://github.com/ray-project/ray/issues/65983
_STARTS = 3
# Within which a cluster must answer, in seconds.
_ANSWER_S = 10.0
# An item over which a worker ended is tried so many times more, by a new one.
_RETRIES = 2
# A block is what one worker takes and answers at a time: a video, unless there are more than so many.
_BLOCKS = 20_000
# Results are small; Ray would take a third of the memory, and no less than 75 MiB.
_STORE_BYTES = 200 * 2**20

LOST = f"the worker that was at it ended {_RETRIES + 1} times without a word: it may have run out of memory"


class Engine(Protocol):
    """Does work on items; several at a time perhaps, and in any order."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
        """Yield the place of an item and what `work` makes of it, as it is done; None where a worker died over it."""


def local(work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
    """The engine that works in this process, on one item after the other."""
    for place, item in enumerate(items):
        yield place, work(item)


def in_order(results: Iterable[tuple[int, R]]) -> Iterator[R]:
    """The results of an engine by their places; those that come early are held back."""
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
        ray_address: HOST:PORT of a Ray cluster, or "auto" for that of this machine; None takes what RAY_ADDRESS says,
            and else starts Ray for the time of the work.
        n_workers: of Ray; one a processor if not given.

    Raises:
        UserError: for another name, an address without Ray, or if Ray is not installed.
    """
    if name == "ray":
        ray_address = ray_address or os.environ.get("RAY_ADDRESS") or None
        _import_ray(ray_address)
        if ray_address is not None:
            _check_address(ray_address)
        return RayEngine(ray_address, n_workers)
    if name != "local":
        raise UserError(f"--engine {name}: must be local or ray")
    if ray_address:
        raise UserError(f"--ray-address {ray_address}: needs --engine ray")
    return local


def _import_ray(address: str | None) -> ModuleType:
    if address is None and "ray" not in sys.modules:
        # The ports of a Ray that is started here listen to every machine of the network, but obey those alone who know
        # what is drawn here. It must be known when Ray is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return import_ray()


def _check_address(address: str) -> None:
    """See that something answers: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():
        raise UserError(f"--ray-address {address}: must be HOST:PORT, as ray start prints it, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray-address {address}: no Ray cluster answers there: {error}") from error


@dataclass(frozen=True)
class RayEngine:
    """The engine that works on a pool of Ray Data's actors.

    Work and results travel as pickles between the processes of Ray, whose cluster must be trusted. What the items name
    is read, and what work writes is written, on the machines of the cluster: files must be on a file system that all
    of them share.

    Args:
        address: of a cluster; None starts Ray on this machine, for this process alone.
        n_workers: at most; one a processor that is free if None.
    """

    address: str | None = None
    n_workers: int | None = None

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R | None]]:
        """See `Engine`.

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
                    f"{n_workers} workers of Ray did not start within {_PATIENCE_S:.0f} s: other work has the "
                    "processors; give fewer --workers, or try again when it is done"
                ) from error
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"Ray failed: {why[-1]}; the same command goes on from there") from error
        for place in sorted(missing):
            yield place, None

    @contextmanager
    def _connected(self) -> Iterator[ModuleType]:
        ray = _import_ray(self.address)
        if ray.is_initialized():  # by whoever calls this from Python
            yield ray
            return
        where: dict[str, Any] = {"address": self.address}
        if self.address is None:
            from facereel.data.parallel import n_processors  # not above: data imports video, and that this module

            where = {
                "address": "local",
                "num_cpus": max(self.n_workers or 1, n_processors()),
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            _start(ray, where, 1 if self.address else _STARTS)
        except Exception as error:  # Ray's own are of every kind, Exception itself among them
            at = f"--ray-address {self.address}: no cluster that can be used" if self.address else "Ray does not start"
            raise UserError(f"{at}: {str(error).strip().splitlines()[0]}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _start(ray: ModuleType, where: dict[str, Any], tries: int) -> None:
    """Start Ray or connect to it, and leave SIGTERM to whom it was: Ray would take it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _no_stderr():  # Ray says there that it was told not to say anything
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit as stop:  # what Ray makes of SIGTERM
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
    """Keep from the terminal what C++ writes to it."""
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
    """In an actor: unpacks an item, works on it, and packs what comes of it; Ray Data would drop an error's item."""

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
        except ImportError as error:  # of a class that --trust let the model have
            outcome = UserError(f"a worker of Ray cannot import what is imported here: {error}; see its PYTHONPATH")
        except Exception:  # which may be of a kind that cannot be packed
            outcome = RuntimeError(f"in a worker of Ray: {traceback.format_exc()}")
        return {"place": row["place"], "outcome": pickle.dumps(outcome)}


def _outcomes(ray: ModuleType, work: Callable[[T], R], items: Sequence[T], n_workers: int) -> Iterator[tuple[int, Any]]:
    """Yield an item's place and what `work` returned or raised, as it is done; nothing where workers died over it."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = _PATIENCE_S
    context.execution_no_progress_timeout_s = -1  # half an hour if not set, and a film may take longer
    context.max_errored_blocks = -1
    rows = [{"place": place, "item": pickle.dumps(item)} for place, item in enumerate(items)]
    # One at a time, or a worker would keep a second one waiting behind a long film while another has nothing to do.
    pool = ray.data.ActorPoolStrategy(size=n_workers, max_tasks_in_flight_per_actor=1)
    items_in_blocks = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args_fn")  # gone with 2.64, below which we stay
        done = items_in_blocks.map(
            _Worker,
            fn_constructor_args=(ray.put(pickle.dumps(work)),),
            compute=pool,
            num_cpus=_PROCESSORS,
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},  # without end if not set
        )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["place"], pickle.loads(row["outcome"])
