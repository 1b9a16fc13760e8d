"""Processes of a run on several GPUs or machines, and communication between them.

In a run of one process the functions that communicate return their input.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.system.device import device_type

# The run id that `facereel.parallel.launch` sets is this prefix and the process id of the launcher.
RUN_ID = "facereel-"

# Time that a process waits for the others, which may be reading data or writing the report.
_PATIENCE = timedelta(hours=2)

# Seconds that the first process has to report a mistake before another process ends.
_REPORT_TIME = 10.0

Result = TypeVar("Result")
Items = TypeVar("Items", bound=Sequence[Any])


def launched_world_size() -> int:
    """Return the number of processes that torchrun, `parallel.launch` or srun started for this run; 0 without them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_STEP_ID" not in os.environ:  # srun did not start this process
        return 0
    # In a job of one task, the run starts its own processes.
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning decides it
    return tasks if tasks > 1 and not interactive else 0


def environment() -> Any:
    """Return Lightning's cluster environment, so that Lightning does not detect one itself."""
    from pytorch_lightning.plugins import environments

    kinds: Any = environments  # mypy does not find its exports
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return kinds.TorchElasticEnvironment()
    if not launched_world_size():
        return kinds.LightningEnvironment()
    # When it requeues a job, Lightning saves its own checkpoint, which hides last.ckpt.
    return kinds.SLURMEnvironment(auto_requeue=False)


def n_local() -> int:
    """Return the number of processes of the run on this machine."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return world_size() // int(os.environ.get("SLURM_NNODES", "1"))


def devices_of(trainer: Any) -> list[int] | int:
    """Return the devices that a trainer configuration requests on this machine.

    Args:
        trainer: the configuration of a `trainer` option.

    Returns:
        Indices of GPUs, or the number of devices.

    Raises:
        UserError: if the value is invalid, or the machine has fewer GPUs.
    """
    devices = trainer.devices
    n_gpus = torch.cuda.device_count() if on_gpu(trainer) else 0
    if devices in ("auto", -1, "-1"):
        return max(1, n_gpus)
    if type(devices) is int and devices >= 1:
        chosen: list[int] | int = devices
    elif isinstance(devices, Sequence) and devices and all(type(number) is int for number in devices):
        chosen = list(devices)
    else:
        raise UserError(f"trainer.devices={devices}: must be a number of devices, auto, or GPUs such as [0,2]")
    wanted = chosen if isinstance(chosen, int) else max(chosen) + 1
    if on_gpu(trainer) and wanted > n_gpus:
        raise UserError(f"trainer.devices={devices}: this machine has {n_gpus} GPUs")
    return chosen


def n_devices(trainer: Any) -> int:
    """Return the number of devices, which is the number of processes, that a trainer configuration requests here.

    Args:
        trainer: the configuration of a `trainer` option.
    """
    devices = devices_of(trainer)
    return devices if isinstance(devices, int) else len(devices)


def on_gpu(trainer: Any) -> bool:
    """Return whether a trainer configuration uses CUDA GPUs; see `device_type`.

    Args:
        trainer: the configuration of a `trainer` option.
    """
    return device_type(trainer.accelerator) == "cuda"


def join_process_group(trainer: Any) -> None:
    """Join the process group of the run. All processes except the first stop printing.

    Args:
        trainer: the configuration of a `trainer` option.
    """
    place = environment()
    number = place.global_rank()
    if (run_id := os.environ.get("TORCHELASTIC_RUN_ID", "")).startswith(RUN_ID):
        _end_with(int(run_id.removeprefix(RUN_ID)))
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.main_address, str(place.main_port)
    devices = devices_of(trainer)
    if on_gpu(trainer):
        torch.cuda.set_device(devices[place.local_rank()] if isinstance(devices, list) else place.local_rank())
    backend = "cpu:gloo,cuda:nccl" if on_gpu(trainer) else "gloo"
    dist.init_process_group(backend, rank=number, world_size=launched_world_size(), timeout=_PATIENCE)
    if number:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def leave_process_group() -> None:
    """Leave the process group. All processes must call this."""
    if _joined():
        dist.destroy_process_group()


def let_first_report() -> None:
    """Wait, so that the first process can report a mistake that all processes made.

    The launcher ends all processes when one fails. If another process failed first, no message would be printed.
    """
    if rank():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_REPORT_TIME)


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if _joined() else 1


def shard(items: Items) -> Items:
    """Return this process's shard: every world_size-th item, from its rank on.

    Args:
        items: the items, the same in all processes.

    Returns:
        The shard. The shards of all processes are disjoint, and complete together.
    """
    part: Items = items[rank() :: world_size()]  # type: ignore[assignment]
    return part


def run_on_rank_zero(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in the first process only, and return its result in all processes.

    Args:
        function: the function; its result must be picklable.
        *arguments: arguments of the function.

    Returns:
        The result.
    """
    if world_size() == 1:
        return function(*arguments)
    box: list[Any] = [function(*arguments) if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    result: Result = box[0]
    return result


def broadcast_parameters(module: nn.Module) -> None:
    """Copy a module's weights from the first process to all, since other processors may round differently.

    Args:
        module: the module, on the CPU.
    """
    if world_size() > 1:
        for tensor in module.state_dict().values():
            sent = tensor.contiguous()  # convolutions may be in the channels-last layout
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def gather(*tensors: Tensor, kinds: Tensor | None = None) -> tuple[Tensor, ...]:
    """Concatenate the rows of all processes, with gradients, unlike torch.distributed.all_gather.

    The gradient is that of the sum of all processes' losses, and reaches the process that owns the row. If each of W
    processes has the same loss L of gathered rows, the sum is W L, and a weight's gradient, summed over its copies,
    is W dL/dw. DistributedDataParallel divides it by W, so the optimizer gets dL/dw, the gradient of one process with
    all rows, without a factor. The same is true for weights after the gathering, such as those of the loss.

    Args:
        *tensors: (n, ...) each, with equal n; n may differ between processes.
        kinds: (n,) integer, ascending, the key to order the rows by; None orders them by process. If the rows of each
            kind are divided among the processes in order, the order is the same as in one process.

    Returns:
        Each tensor with the rows of all processes, ordered by kind, process and row.
    """
    if world_size() == 1:
        return tensors
    lengths = _lengths(tensors[0])
    order = None if kinds is None else _Gather.apply(kinds, lengths).argsort(stable=True)
    joined = [_Gather.apply(tensor, lengths) for tensor in tensors]
    return tuple(tensor if order is None else tensor[order] for tensor in joined)


def gather_by_index(ids: Tensor, values: Tensor, n: int) -> Tensor | None:
    """Collect the values of all processes by index.

    Args:
        ids: (m,) int64, indices of this process's values, in 0..n-1; processes may share indices.
        values: (m, ...), the values of this process.
        n: total number of values.

    Returns:
        (n, ...), the values in order of index; None if an index is missing.
    """
    ids, values = gather(ids, values)
    if len(ids.unique()) < n:  # type: ignore[no-untyped-call]
        return None
    placed = values.new_empty(n, *values.shape[1:])
    placed[ids] = values
    return placed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, lengths: list[int]) -> Tensor:
        ctx.lengths = lengths
        if max(lengths) == 0:
            return tensor.clone()
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        summed = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        start = sum(ctx.lengths[: rank()])
        return summed[start : start + ctx.lengths[rank()]], None


def _lengths(tensor: Tensor) -> list[int]:
    length = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    return torch.cat(lengths).tolist()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _end_with(parent: int) -> None:
    """End this process after its launcher was killed and can no longer end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
