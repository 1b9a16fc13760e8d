"""What is drawn at random in training depends on the seed, the stage and the epoch, and on nothing that came before.

So a run that was killed and continued draws what an unbroken one does, and no random state stands in a checkpoint.
"""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl

# The first of the numbers that a seed is made from, so that no two uses share their draws.
BUILDING, EPOCH, PICTURES, WORKER = range(4)


def seed_of(*numbers: int) -> int:
    """Make one seed of several numbers >= 0; other numbers, or another order, give another."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(*numbers: int) -> None:
    """Set the state of Python's, NumPy's and torch's global generators."""
    pl.seed_everything(seed_of(*numbers), workers=True, verbose=False)


def seed_worker(worker: int, *, seed: int) -> None:
    """Set that state in a process that prepares batches: a DataLoader draws its own seed anew for each iterator."""
    seed_all(WORKER, seed, worker)
