"""What is drawn at random in training depends on the seed, the stage and the epoch, and on nothing that came before.

So a run that was killed and continued draws what an unbroken one does. Only a checkpoint from within an epoch holds
random states.
"""

from __future__ import annotations

import random
import signal
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

# The first of the numbers that a seed is made from, so that no two uses share their draws.
BUILDING, EPOCH, PICTURES, WORKER, MOVES = range(5)


def seed_of(*numbers: int) -> int:
    """Make one seed of several numbers >= 0; other numbers, or another order, give another."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int) -> None:
    """Set the state of Python's, NumPy's and torch's global generators."""
    pl.seed_everything(seed_of(*numbers), workers=True, verbose=False)


def seed_worker(worker: int, *, seed: int) -> None:
    """Set that state in a process that prepares batches: a DataLoader draws its own seed anew for each iterator."""
    seed_all(WORKER, seed, worker)
    # SLURM sends it to all processes: the one that trains ends its workers when it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def random_state() -> dict[str, Any]:
    """The state of those generators, in what a checkpoint may hold."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (augmentations of others draw from it)
    key = numpy["state"]["key"].tolist()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    own = {"python": random.getstate(), "numpy": {**numpy, "state": {**numpy["state"], "key": key}}}
    return {**own, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Draw from here on what was drawn behind `random_state`."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
