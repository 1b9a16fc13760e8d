"""Crops to batches: P people x (C clips + S stills), or plain pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from facereel.data.faces import Clip, FaceSet, Still
from facereel.errors import UserError


class Batch(NamedTuple):
    """What the model is given; either kind may be absent (a first dimension of 0).

    From a set of features (see `FaceSet.with_features`) 3, S, S is D in float32.
    """

    stills: Tensor
    """(M, 3, S, S) uint8."""
    still_labels: Tensor
    """(M,) int64."""
    clips: Tensor
    """(N, T, 3, S, S) uint8, T the longest clip of the batch."""
    mask: Tensor
    """(N, T) bool, True for a real frame."""
    clip_labels: Tensor
    """(N,) int64."""


class FaceItems(Dataset[tuple[Tensor, int, bool]]):
    """Clips and stills by index.

    Args:
        faces: holds the crops.
        items: clips and stills.
        n_frames: take so many frames of a longer clip, at random; None takes all.
        transform: applied to the (T, 3, S, S) uint8 frames of a clip, T = 1 for a still; may drop frames, not all.
    """

    def __init__(
        self,
        faces: FaceSet,
        items: Sequence[Clip | Still],
        n_frames: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.faces = faces
        self.items = list(items)
        self.n_frames = n_frames
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int, bool]:
        """Frames (T, 3, S, S) uint8, the person's number, and whether it is a clip (T = 1 for a still)."""
        item = self.items[index]
        is_clip = isinstance(item, Clip)
        rows = torch.tensor(item.rows if isinstance(item, Clip) else [item.row])
        if is_clip and self.n_frames is not None and len(rows) > self.n_frames:
            rows = rows[torch.randperm(len(rows))[: self.n_frames].sort().values]
        pictures = self.faces.pictures(rows.tolist())
        if self.transform is not None:
            pictures = self.transform(pictures)
        return pictures, item.person, is_clip


def collate(samples: Sequence[tuple[Tensor, int, bool]]) -> Batch:
    """Join samples of `FaceItems`, clips padded to the longest; the order within each kind is kept."""
    stills = [(pictures, label) for pictures, label, is_clip in samples if not is_clip]
    clips = [(pictures, label) for pictures, label, is_clip in samples if is_clip]
    shape = samples[0][0].shape[1:]
    longest = max((len(pictures) for pictures, _ in clips), default=0)
    dtype = samples[0][0].dtype
    padded = torch.zeros(len(clips), longest, *shape, dtype=dtype)
    mask = torch.zeros(len(clips), longest, dtype=torch.bool)
    for i, (pictures, _) in enumerate(clips):
        padded[i, : len(pictures)] = pictures
        mask[i, : len(pictures)] = True
    return Batch(
        torch.cat([pictures for pictures, _ in stills]) if stills else torch.zeros(0, *shape, dtype=dtype),
        torch.tensor([label for _, label in stills], dtype=torch.int64),
        padded,
        mask,
        torch.tensor([label for _, label in clips], dtype=torch.int64),
    )


def share(batch: Sequence[int], is_clip: Sequence[bool], rank: int, world_size: int) -> list[int]:
    """The part of a batch that one of several processes takes; one process takes it as it is.

    Args:
        batch: indices of clips and stills.
        is_clip: of every index, whether it is a clip.
        rank: the process's number.
        world_size: how many there are.

    Returns:
        Of the batch's clips the rank-th stretch, and of its stills: each as long as any other, or one shorter.
    """
    of_kind = {kind: [i for i, index in enumerate(batch) if is_clip[index] == kind] for kind in (True, False)}
    own = [i for places in of_kind.values() for k, i in enumerate(places) if k * world_size // len(places) == rank]
    return [batch[i] for i in sorted(own)]


class PeopleBatchSampler(Sampler[list[int]]):
    """Batches of P people x (C clips + S stills); an epoch shows every clip.

    A person with fewer than C clips or S stills repeats some. Where fewer than P people have clips left to show, people
    who were shown already fill the batch.

    Args:
        items: clips and stills; what is yielded are indices into it.
        n_people: P.
        n_clips: C.
        n_stills: S.
        seed: with the epoch, decides everything.

    Raises:
        UserError: if there are fewer than P people with both a clip and a still, or a number is too small.
    """

    def __init__(
        self,
        items: Sequence[Clip | Still],
        n_people: int,
        n_clips: int,
        n_stills: int,
        seed: int,
    ) -> None:
        self.clips: dict[int, list[int]] = defaultdict(list)
        self.stills: dict[int, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            (self.clips if isinstance(item, Clip) else self.stills)[item.person].append(i)
        self.people = sorted(self.clips.keys() & self.stills.keys())
        if min(n_people, n_clips, n_stills) < 1 or n_people < 2:
            raise UserError("batch: n_people must be at least 2, n_clips and n_stills at least 1")
        if n_people > len(self.people):
            raise UserError(
                f"batch.n_people={n_people}: only {len(self.people)} people have both a clip and a still to train on"
            )
        self.n_people, self.n_clips, self.n_stills = n_people, n_clips, n_stills
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other batches in this epoch than in others."""
        self.epoch = epoch

    def _n_chunks(self, person: int) -> int:
        return -(-len(self.clips[person]) // self.n_clips)

    def __len__(self) -> int:
        chunks = [self._n_chunks(person) for person in self.people]
        # The people with most left go first, so only one person's own chunks can make an epoch longer.
        return max(max(chunks), -(-sum(chunks) // self.n_people))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        queues = {person: list(random.permutation(self.clips[person])) for person in self.people}
        while any(queues.values()):
            # Who has most left goes first, at random among equals.
            left = np.array([-(-len(queues[person]) // self.n_clips) for person in self.people])
            order = np.lexsort((random.random(len(left)), -left))
            chosen = [self.people[i] for i in order[: self.n_people]]
            batch: list[int] = []
            for person in chosen:
                clips, queues[person] = queues[person][: self.n_clips], queues[person][self.n_clips :]
                batch += [int(i) for i in clips]
                batch += _draw(random, self.clips[person], self.n_clips - len(clips), without=set(clips))
                batch += _draw(random, self.stills[person], self.n_stills)
            yield batch


def _draw(random: np.random.Generator, pool: list[int], count: int, without: set[int] | None = None) -> list[int]:
    """Draw `count`, each once before any twice; those in `without` last."""
    drawn: list[int] = []
    fresh = [i for i in pool if i not in (without or ())]
    while len(drawn) < count:
        drawn += [int(i) for i in random.permutation(fresh or pool)][: count - len(drawn)]
        fresh = pool
    return drawn
