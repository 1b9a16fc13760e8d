"""The LightningDataModule: batches of one stage from a data set and its split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Sampler

from facereel.data import Clip, FaceDataset, FaceSet, PKBatchSampler, Still, collate, open_prepared, shard_batch
from facereel.errors import UserError
from facereel.evaluation import ClosedSet, IdentityDisjoint, Split
from facereel.evaluation.split import has_match
from facereel.parallel.distributed import rank, shard, world_size
from facereel.training.seeds import IMAGES, seed_of, seed_worker, set_random_state

PROTOCOLS = {protocol.name: protocol for protocol in (ClosedSet, IdentityDisjoint)}

# Number of val items per batch.
_N_VAL = 32


class ResumePoint(NamedTuple):
    """Position in an epoch at which a run was stopped."""

    epoch: int
    n_batches: int
    random: dict[str, Any]
    """The `random_state` after the last of these batches."""


@dataclass(frozen=True)
class BatchOptions:
    """Sizes of the batches; several processes share one batch of this size.

    Args:
        identities_per_batch: P, number of people per batch.
        n_clips: C, number of clips per person.
        n_stills: S, number of stills per person.
        n_still_people: number of people without a clip who are added to each batch with at most C + S stills.
        n_frames: maximum number of frames per clip, drawn at random.
        batch_size: number of images in a batch of single images, at least 2.

    Raises:
        ValueError: if `n_frames` is less than 1.
    """

    identities_per_batch: int = 12
    n_clips: int = 2
    n_stills: int = 2
    n_still_people: int = 0
    n_frames: int = 10
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.n_frames < 1:
            raise ValueError(f"n_frames={self.n_frames}: must be at least 1")


class FaceDataModule(pl.LightningDataModule):
    """Batches of people or of single images, and the val part by which a checkpoint is chosen.

    Several processes draw the same batches as one process and share each batch.

    Args:
        faces: the data set, its features (see `FaceSet.with_features`), or the folder of a prepared data set.
        protocol: name of a protocol for training, "identity_disjoint" or "closed_set", from which a split is drawn with
            the seed; or a split. Only its train and val parts are read.
        batch: sizes of the batches.
        people: draw batches of people; False draws single images: frames, stills, and the stills of people without
            clips.
        transform: applied to the frames of each training clip and to each training still; see `ImageAugment`. The
            `image_augment` of `HashingModule` runs on the device instead.
        num_workers: number of processes that prepare batches.
        seed: random seed; together with the epoch it determines the batches.

    Raises:
        UserError: if there is too little data to train on.

    Examples:
        >>> data = FaceDataModule("prepared/ytf", "identity_disjoint")  # doctest: +SKIP
        >>> pl.Trainer().fit(HashingModule(model, loss), datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        faces: FaceSet | str | Path,
        protocol: str | Split = "identity_disjoint",
        *,
        batch: BatchOptions | None = None,
        people: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.faces = faces if isinstance(faces, FaceSet) else open_prepared(faces).face_set()
        self.split = protocol if isinstance(protocol, Split) else _draw_split(protocol, self.faces, seed)
        self.batch = batch or BatchOptions()
        self.people, self.seed = people, seed
        self.transform, self.num_workers = transform, num_workers
        self.resume_point: ResumePoint | None = None
        train = self.split.train
        sizes = self.batch
        if people:
            others = self.split.pretrain_only if sizes.n_still_people else []
            self.items: list[Clip | Still] = [*train.items, *others]
        else:
            self.items = images_of(self.faces, self.split)
        if people:
            counts = (sizes.identities_per_batch, sizes.n_clips, sizes.n_stills)
            self.sampler = PKBatchSampler(self.items, *counts, seed, sizes.n_still_people)
        elif len(self.items) < 2 or self.batch.batch_size < 2:
            raise UserError(
                f"training on images needs at least 2 images and a batch_size of at least 2, not {len(self.items)} "
                f"images and batch_size={self.batch.batch_size}"
            )
        queries, gallery = self.val_sides = (self.split.val, self.split.gallery(self.split.val))
        items: list[Clip | Still] = [*queries.clips, *gallery.clips, *queries.stills, *gallery.stills]
        self.val_items = list({id(item): item for item in items}.values())
        """Val queries and their gallery without duplicates: clips, then stills."""

    @property
    def has_val(self) -> bool:
        """Whether a val query has a match, so that a checkpoint can be chosen."""
        return has_match(self.split.val, self.split.gallery(self.split.val))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of one epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        data = FaceDataset(self.faces, self.items, self.batch.n_frames, self.transform)
        self._batches = self._build_sampler(data, epoch)
        loader = EpochLoader(
            data,
            batch_sampler=_Shards(self._batches, self.items),
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=partial(seed_worker, seed=seed_of(self.seed, epoch, rank())),
            # A separate generator: each new iterator draws a number, and after a restart an epoch has fewer iterators.
            generator=torch.Generator(),
        )
        if self.resume_point is not None and self.resume_point.epoch == epoch:
            loader.resume_point = self.resume_point
        return loader

    def _build_sampler(self, data: FaceDataset, epoch: int) -> Sampler[list[int]]:
        """Return the batches of all processes together.

        Raises:
            UserError: if a batch is too small for the number of processes.
        """
        if self.people:
            self.sampler.set_epoch(epoch)
            batches: Sampler[list[int]] = self.sampler
            # Clips or stills, so that every process has a gradient for all trained parameters.
            smallest = self.batch.identities_per_batch * min(self.batch.n_clips, self.batch.n_stills)
        else:
            # Every process draws the whole epoch, from the seed alone, as a single process would.
            images: DistributedSampler[Any] = DistributedSampler(data, 1, 0, seed=seed_of(IMAGES, self.seed))
            images.set_epoch(epoch)
            # A last batch of one image would break batch norm.
            smallest = min(self.batch.batch_size, len(images))
            batches = BatchSampler(images, smallest, drop_last=True)
        if smallest < world_size():
            what = "clips or stills" if self.people else "images"
            raise UserError(
                f"batch: {world_size()} processes cannot share a batch of {smallest} {what}; use larger batches"
            )
        return batches

    def batch_items(self, batch_idx: int) -> list[Clip | Still]:
        """Return all clips and stills of a batch of this epoch; the sampler draws the same batches every time."""
        return [self.items[i] for i in [*self._batches][batch_idx]]

    def val_batches(self) -> list[list[int]]:
        """Return the batches of this process, as indices into `val_items`; the first batch if it would have none."""
        n = len(self.val_items) if self.has_val else 0
        batches = [list(range(start, min(start + _N_VAL, n))) for start in range(0, n, _N_VAL)]
        return shard(batches) or batches[:1]

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the batches of `val_items`."""
        data = FaceDataset(self.faces, self.val_items)
        return DataLoader(data, batch_sampler=self.val_batches(), collate_fn=collate, num_workers=self.num_workers)


class EpochLoader(DataLoader[Any]):
    """Batches of one epoch, or the remaining ones of an interrupted epoch."""

    resume_point: ResumePoint | None = None

    def __iter__(self) -> Any:
        """Return an iterator over the batches."""
        batches = super().__iter__()
        return batches if self.resume_point is None else self._rest(batches, self.resume_point)

    def _rest(self, batches: Iterator[Any], point: ResumePoint) -> Iterator[Any]:
        # The first batches are prepared and discarded, because the workers draw random numbers in order.
        for _ in islice(batches, point.n_batches):
            pass
        set_random_state(point.random)
        yield from batches


class _Shards(Sampler[list[int]]):
    """Shard of this process of every batch.

    Lightning sets the epoch of `sampler`, so that a plain Trainer, which keeps one loader, has new batches every epoch.
    """

    def __init__(self, batches: Sampler[list[int]], items: Sequence[Clip | Still]) -> None:
        self.batches = batches
        self.sampler = getattr(batches, "sampler", batches)
        self.is_clip = [isinstance(item, Clip) for item in items]

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield shard_batch(batch, self.is_clip, rank(), world_size())


def _draw_split(name: str, faces: FaceSet, seed: int) -> Split:
    if name not in PROTOCOLS:
        raise ValueError(f"protocol={name}: must be one of {', '.join(PROTOCOLS)}, or a Split")
    return PROTOCOLS[name]().split(faces, seed)


def images_of(faces: FaceSet, split: Split) -> list[Clip | Still]:
    """Return every training image once, as a still.

    Args:
        faces: the data set.
        split: split of the data set.

    Returns:
        Frames of clips, then stills.
    """
    frames = [still for clip in split.train.clips for still in faces.frames_as_stills(clip)]
    stills = [*split.train.stills, *split.pretrain_only]
    # A frame may be used as a still; ORL's stills are the files of its frames under another key.
    seen = set(zip(*_file_and_position(faces, frames), strict=True))
    places = zip(*_file_and_position(faces, stills), strict=True)
    return [*frames, *(still for still, place in zip(stills, places, strict=True) if place not in seen)]


def _file_and_position(faces: FaceSet, stills: Sequence[Still]) -> tuple[list[str], list[int]]:
    rows = [still.row for still in stills]
    return faces.column("file", rows), faces.column("position", rows)
