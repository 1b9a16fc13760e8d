"""Start one process per device of this machine with PyTorch's elastic launcher."""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from facereel.parallel.distributed import RUN_ID
from facereel.parallel.pool import n_processors

# Seconds from a signal to SIGKILL. SLURM leaves a job 30 s.
_GRACE = 20

# Exit code for a user's mistake, which the first process reports for all processes.
_MISTAKE = 2


def launch(n: int, command: list[str]) -> int:
    """Run a command in n processes, with the rank in the environment of each, as under torchrun.

    The first process writes to the streams of this one. If a process fails, the others are ended. SIGINT and SIGTERM
    are forwarded to all processes.

    Args:
        n: number of processes.
        command: the program and its arguments.

    Returns:
        The exit code: 0 if all processes succeeded; otherwise that of the first process that failed, or 128 plus the
        signal number.
    """
    # The launcher logs every failure and signal. The processes report them in one line.
    logger = logging.getLogger("torch.distributed.elastic")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    # Otherwise each process would use all processors.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_processors() // n)))
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    handlers = {kind: signal.getsignal(kind) for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="facereel_") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=n,
            run_id=f"{RUN_ID}{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, dict.fromkeys(range(1, n), Std.ERR), local_ranks_filter={0}),
        )
        # Older versions of PyTorch lack these two. SIGHUP is not handled, for nohup.
        config.signals_to_handle = "SIGINT,SIGTERM"
        config.shutdown_timeout = _GRACE
        try:
            elastic_launch(config, command[0])(*command[1:])
        except SignalException as stop:
            return 128 + stop.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if rank and (0 not in error.failures or error.failures[0].exitcode != _MISTAKE):
                text = next(Path(folder).glob(f"*/*/{rank}/stderr.log")).read_text(errors="replace")
                print(f"process {rank} of {n} ended with exit code {failure.exitcode}:\n{text}", file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
    return 0
