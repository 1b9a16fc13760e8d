"""Random seeds of training: every draw depends on the seed, the stage and the epoch, not on earlier draws.

So a run that was killed and resumed draws the same numbers as an uninterrupted one. Only a checkpoint that was written
within an epoch contains random states.
"""

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

# The first of the numbers from which a seed is made, so that no two uses share their draws.
BUILDING, EPOCH, IMAGES, WORKER, MOVES, AUGMENT = range(6)


def seed_of(*numbers: int) -> int:
    """Combine numbers into one seed.

    Args:
        *numbers: integers >= 0. Other numbers, or another order, give another seed.

    Returns:
        The seed.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int) -> None:
    """Seed the global generators of Python, NumPy and torch.

    Args:
        *numbers: as for `seed_of`.
    """
    pl.seed_everything(seed_of(*numbers), workers=True, verbose=False)


@contextmanager
def torch_seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Seed torch's global generators in a block, and restore their states after it.

    Args:
        device: device of the computation in the block.
        *numbers: as for `seed_of`.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(*numbers))
        yield


def seed_worker(worker: int, *, seed: int) -> None:
    """Seed a worker process of a DataLoader, which would otherwise draw another seed for each iterator.

    Args:
        worker: number of the worker.
        seed: seed of the epoch.
    """
    seed_all(WORKER, seed, worker)
    # SLURM sends SIGTERM to all processes: the training process stops its workers after it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class SeedEpochs(Callback):
    """Seed every epoch and process, so that an epoch draws the same numbers after a restart.

    Args:
        seed: seed of the stage.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the epoch."""
        seed_all(EPOCH, self.seed, trainer.current_epoch, trainer.global_rank)


def random_state() -> dict[str, Any]:
    """Return the state of the global generators, in types that a checkpoint may contain."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (custom augmentations may draw from it)
    key = numpy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state of the global generators.

    Args:
        state: returned by `random_state`.
    """
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
