"""Crops to batches: P people x (C clips + S stills), or plain images."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from facereel.data.face_set import Clip, FaceSet, Still
from facereel.errors import UserError


class Batch(NamedTuple):
    """A model's input; stills or clips may be absent (a first dimension of 0).

    For a set of features (see `FaceSet.with_features`) 3, S, S is D in float32.
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


class FaceDataset(Dataset[tuple[Tensor, int, bool]]):
    """Clips and stills by index.

    Args:
        faces: the data set with the crops.
        items: clips and stills.
        n_frames: number of frames drawn at random from a longer clip; None takes all.
        transform: applied to the (T, 3, S, S) uint8 frames of a clip, T = 1 for a still; may drop frames, but not all.
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
        """Return (T, 3, S, S) uint8 frames, the person's number, and whether the item is a clip; a still has T = 1."""
        item = self.items[index]
        is_clip = isinstance(item, Clip)
        rows = torch.tensor(item.rows if isinstance(item, Clip) else [item.row])
        if is_clip and self.n_frames is not None and len(rows) > self.n_frames:
            rows = rows[torch.randperm(len(rows))[: self.n_frames].sort().values]
        images = self.faces.images(rows.tolist())
        if self.transform is not None:
            images = self.transform(images)
        return images, item.person, is_clip


def collate(samples: Sequence[tuple[Tensor, int, bool]]) -> Batch:
    """Join samples of `FaceDataset` into a batch.

    Args:
        samples: (T, 3, S, S) uint8 frames, the person's number, and whether the sample is a clip.

    Returns:
        The batch. Clips are padded to the longest; stills and clips each keep their order.
    """
    stills = [(images, label) for images, label, is_clip in samples if not is_clip]
    clips = [(images, label) for images, label, is_clip in samples if is_clip]
    return _join(
        [images for images, _ in stills],
        torch.tensor([label for _, label in stills], dtype=torch.int64),
        [images for images, _ in clips],
        torch.tensor([label for _, label in clips], dtype=torch.int64),
    )


def augment_batch(batch: Batch, transform: Callable[[Tensor], Tensor]) -> Batch:
    """Augment the images of a batch, on the device that they are on.

    Args:
        batch: the batch.
        transform: called for each clip and each still, as by `FaceDataset`.

    Returns:
        The augmented batch.
    """
    lengths = batch.mask.sum(dim=1).tolist()
    stills = [transform(still[None]) for still in batch.stills]
    clips = [transform(clip[:length]) for clip, length in zip(batch.clips, lengths, strict=True)]
    return _join(stills, batch.still_labels, clips, batch.clip_labels)


def _join(stills: list[Tensor], still_labels: Tensor, clips: list[Tensor], clip_labels: Tensor) -> Batch:
    """Return the batch of (1, ...) stills and (T, ...) clips, at least one of them."""
    none = (stills or clips)[0][:0]
    lengths = torch.tensor([len(clip) for clip in clips], dtype=torch.int64, device=none.device)
    padded = pad_sequence(clips, batch_first=True) if clips else none[None][:0]
    mask = torch.arange(padded.shape[1], device=none.device) < lengths[:, None]
    return Batch(torch.cat(stills) if stills else none, still_labels, padded, mask, clip_labels)


def shard_batch(batch: Sequence[int], is_clip: Sequence[bool], rank: int, world_size: int) -> list[int]:
    """Select the shard of a batch for one process.

    Args:
        batch: indices of clips and stills.
        is_clip: whether each index of the data set is a clip.
        rank: rank of the process, from 0.
        world_size: number of processes.

    Returns:
        The rank-th part of the batch's clips and of its stills, in the batch's order. The parts of two processes differ
        by at most one clip and one still.
    """
    by_kind = {kind: [i for i, index in enumerate(batch) if is_clip[index] == kind] for kind in (True, False)}
    shard = [i for places in by_kind.values() for k, i in enumerate(places) if k * world_size // len(places) == rank]
    return [batch[i] for i in sorted(shard)]


class PKBatchSampler(Sampler[list[int]]):
    """Sample batches of P people x (C clips + S stills); an epoch shows every clip.

    Clips and stills of a person with fewer than C or S are repeated. When fewer than P people have unseen clips,
    people whose clips were all shown fill the batch.

    Args:
        items: clips and stills; batches are indices into it.
        identities_per_batch: P, at least 2.
        n_clips: C, at least 1.
        n_stills: S, at least 1.
        seed: random seed; with the epoch it determines all batches.
        n_still_people: people without a clip who are added to each batch, with at most C + S stills each.

    Raises:
        UserError: if fewer than P people have both a clip and a still, fewer than `n_still_people` have two stills and
            no clip, or a number is too small.
    """

    def __init__(
        self,
        items: Sequence[Clip | Still],
        identities_per_batch: int,
        n_clips: int,
        n_stills: int,
        seed: int,
        n_still_people: int = 0,
    ) -> None:
        self.clips: dict[int, list[int]] = defaultdict(list)
        self.stills: dict[int, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            (self.clips if isinstance(item, Clip) else self.stills)[item.person].append(i)
        self.people = sorted(self.clips.keys() & self.stills.keys())
        without_clips = self.stills.keys() - self.clips.keys()
        self.still_people = sorted(person for person in without_clips if len(self.stills[person]) > 1)
        if identities_per_batch < 2 or min(n_clips, n_stills) < 1:
            raise UserError(
                f"identities_per_batch={identities_per_batch}, n_clips={n_clips}, n_stills={n_stills}: must be at "
                "least 2, 1 and 1, in this order"
            )
        if identities_per_batch > len(self.people):
            raise UserError(
                f"identities_per_batch={identities_per_batch}: only {len(self.people)} people have both a clip and a "
                "still to train on"
            )
        if n_still_people > len(self.still_people):
            raise UserError(
                f"n_still_people={n_still_people}: only {len(self.still_people)} people have two stills or more and no "
                "clip to train on"
            )
        self.n_still_people = n_still_people
        self.identities_per_batch, self.n_clips, self.n_stills = identities_per_batch, n_clips, n_stills
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which changes the random order of the batches.

        Args:
            epoch: number of the epoch.
        """
        self.epoch = epoch

    def _n_chunks(self, clips: Sequence[int]) -> int:
        return -(-len(clips) // self.n_clips)

    def __len__(self) -> int:
        chunks = [self._n_chunks(self.clips[person]) for person in self.people]
        # People with the most unseen clips go first, so only one person's own chunks can make an epoch longer.
        return max(max(chunks), -(-sum(chunks) // self.identities_per_batch))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        queues = {person: list(random.permutation(self.clips[person])) for person in self.people}
        while any(queues.values()):
            # People with the most unseen clips go first, in random order among equals.
            left = np.array([self._n_chunks(queues[person]) for person in self.people])
            order = np.lexsort((random.random(len(left)), -left))
            batch: list[int] = []
            for person in (self.people[i] for i in order[: self.identities_per_batch]):
                clips, queues[person] = queues[person][: self.n_clips], queues[person][self.n_clips :]
                batch += [int(i) for i in clips]
                batch += _draw(random, self.clips[person], self.n_clips - len(clips), last=clips)
                batch += _draw(random, self.stills[person], self.n_stills)
            if self.n_still_people:
                for person in random.choice(self.still_people, self.n_still_people, replace=False):
                    pool = self.stills[int(person)]
                    batch += _draw(random, pool, min(len(pool), self.n_clips + self.n_stills))
            yield batch


def _draw(random: np.random.Generator, pool: list[int], count: int, last: Sequence[int] = ()) -> list[int]:
    """Return `count` random items. An item repeats only after all others were drawn; those in `last` come last."""
    drawn: list[int] = []
    unseen = [i for i in pool if i not in last]
    while len(drawn) < count:
        drawn += [int(i) for i in random.permutation(unseen or pool)][: count - len(drawn)]
        unseen = pool
    return drawn
