"""The processes of a run on several GPUs or machines, and what they hand each other.

Nearly every run has one process; then nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facereel.errors import UserError

# Set by `facereel.launch` for the processes it starts: its own number.
PARENT = "FACEREEL_PARENT"

# How long a process waits for the others, which may be reading the data or writing the report.
_PATIENCE = timedelta(hours=2)

Result = TypeVar("Result")
Items = TypeVar("Items", bound=Sequence[Any])


def n_started() -> int:
    """How many processes torchrun, SLURM's srun or `facereel.launch` started for this run; 0 if none of them did."""
    if "TORCHELASTIC_RUN_ID" in os.environ or PARENT in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_STEP_ID" not in os.environ:  # srun sets it; what a job's script calls by itself runs once
        return 0
    # A job of one task is like any other machine.
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning has it
    return tasks if tasks > 1 and not interactive else 0


def environment() -> Any:
    """What Lightning asks for this process's place, so that it does not look for a cluster's signs itself."""
    from pytorch_lightning.plugins import environments

    kinds: Any = environments  # mypy does not see what it exports
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return kinds.TorchElasticEnvironment()
    if PARENT in os.environ or not n_started():
        return kinds.LightningEnvironment()
    # Queueing a job again, Lightning would save a checkpoint of its own, which hides last.ckpt ever after.
    return kinds.SLURMEnvironment(auto_requeue=False)


def n_local() -> int:
    """How many processes of the run this machine has."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"])
    return world_size() // int(os.environ.get("SLURM_NNODES", "1"))


def devices_of(trainer: Any) -> list[int] | int:
    """Read the keys `devices` and `accelerator` of a `trainer` group: numbers of GPUs, or how many devices to use.

    Raises:
        UserError: for anything else, or more GPUs than there are.
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
    """How many devices of this machine a `trainer` group asks for, and so processes."""
    devices = devices_of(trainer)
    return devices if isinstance(devices, int) else len(devices)


def on_gpu(trainer: Any) -> bool:
    """Whether a `trainer` group asks for GPUs, or for whatever there is and there is one."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def join(trainer: Any) -> None:
    """Join the processes that were started for this run; all but the first print nothing from then on.

    Args:
        trainer: the options of a `trainer` group.
    """
    place = environment()
    if PARENT in os.environ:
        number = int(os.environ["RANK"])
        _end_with(int(os.environ[PARENT]))
    else:
        number = place.global_rank()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.main_address, str(place.main_port)
    devices = devices_of(trainer)
    if on_gpu(trainer):
        torch.cuda.set_device(devices[place.local_rank()] if isinstance(devices, list) else place.local_rank())
    backend = "cpu:gloo,cuda:nccl" if on_gpu(trainer) else "gloo"
    dist.init_process_group(backend, rank=number, world_size=n_started(), timeout=_PATIENCE)
    if number:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def leave() -> None:
    """Part from the other processes, which must do so too."""
    if _joined():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if _joined() else 1


def own(items: Items) -> Items:
    """Every world_size-th item, from this process's number on: together the processes have each once."""
    share: Items = items[rank() :: world_size()]  # type: ignore[assignment]
    return share


def from_first(ask: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in the first process only and hand its result to all, which wait for it."""
    if world_size() == 1:
        return ask(*arguments)
    box: list[Any] = [ask(*arguments) if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    result: Result = box[0]
    return result


def alike(module: nn.Module) -> None:
    """Give a module on the CPU the first process's weights in all: another processor may round otherwise."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            sent = tensor.contiguous()  # convolutions may lie otherwise
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def gather(*tensors: Tensor, kinds: Tensor | None = None) -> tuple[Tensor, ...]:
    """Join the rows of all processes, with gradient.

    The gradient is that of the sum of the losses of all processes: what they have of it for a row is summed in the
    process that the row is of. Where each has the same loss L, computed from gathered rows, the sum is W L for W
    processes, and a weight's gradient, summed over the processes' copies of it, W dL/dw. DistributedDataParallel
    divides that sum by W, so what arrives at the optimizer is dL/dw, the gradient of one process with all rows; no
    factor is needed. It holds for weights before the gathering and behind it, as the loss's own.

    torch.distributed.all_gather gives no gradient to what others gathered, nor to one's own rows.

    Args:
        tensors: (n, ...) each, of equally many rows; n may differ between processes.
        kinds: (n,) integer, ascending, to order the rows by; None keeps them in order of processes. With it, and with
            each kind's rows divided among processes in order, the rows come as one process would have them.

    Returns:
        Each with the rows of all, in order of kinds, then of processes, then as they were.
    """
    if world_size() == 1:
        return tensors
    lengths = _lengths(tensors[0])
    order = None if kinds is None else _Gather.apply(kinds, lengths).argsort(stable=True)
    joined = [_Gather.apply(tensor, lengths) for tensor in tensors]
    return tuple(tensor if order is None else tensor[order] for tensor in joined)


def by_id(ids: Tensor, values: Tensor, n: int) -> Tensor | None:
    """Join values of all processes, each at its number.

    Args:
        ids: (m,) int64 of this process, in 0..n-1; a number that several processes have counts once.
        values: (m, ...).
        n: how many there are.

    Returns:
        (n, ...), or None if some are missing.
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
    own_length = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(own_length) for _ in range(world_size())]
    dist.all_gather(lengths, own_length)
    return torch.cat(lengths).tolist()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: nobody else would end a process that waits for others."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
