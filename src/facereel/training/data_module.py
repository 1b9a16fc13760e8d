"""The DataModule: batches of one stage from a data set and its split."""

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

# Val items in a batch.
_N_VAL = 32


class ResumePoint(NamedTuple):
    """An epoch of which some batches were trained on before a run was stopped."""

    epoch: int
    n_batches: int
    random: dict[str, Any]
    """The `random_state` after the last of them."""


@dataclass(frozen=True)
class BatchOptions:
    """Sizes of the batches; of several processes, of what they share.

    Args:
        identities_per_batch: P people in a batch.
        n_clips: C clips each.
        n_stills: S stills each.
        n_still_people: people without a clip, added to each batch with at most C + S stills.
        n_frames: at most this many frames of a clip, drawn at random.
        batch_size: images in a batch of images, at least 2.

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
            raise ValueError(f"n_frames={self.n_frames}: a clip needs at least one frame")


class FaceDataModule(pl.LightningDataModule):
    """Batches of people, or of single images, and the val part to choose a checkpoint by.

    Several processes draw the batches that one would, and share each.

    Args:
        faces: the data set, its features (see `FaceSet.with_features`), or the folder of a prepared data set.
        protocol: name of a protocol that trains, "identity_disjoint" or "closed_set", to draw a split by the seed; or
            a split. Only its train and val parts are read.
        batch: sizes of the batches.
        people: batches of people; False gives plain images: frames, stills, and the stills of people without clips.
        transform: applied to the frames of each training clip and still, see `ImageAugment`.
        num_workers: processes that prepare batches.
        seed: of the batches; with the epoch, it decides them.

    Raises:
        UserError: if there is too little to train on.

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
            raise UserError("training on images needs at least two images, and a batch_size of at least 2")
        queries, gallery = self.val_sides = (self.split.val, self.split.gallery(self.split.val))
        items: list[Clip | Still] = [*queries.clips, *gallery.clips, *queries.stills, *gallery.stills]
        self.val_items = list({id(item): item for item in items}.values())
        """Val queries and their gallery, each once: clips, then stills."""

    @property
    def has_val(self) -> bool:
        """Whether a val query has a match, to choose a checkpoint by."""
        return has_match(self.split.val, self.split.gallery(self.split.val))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of one epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        data = FaceDataset(self.faces, self.items, self.batch.n_frames, self.transform)
        self._batches = self._build_sampler(data, epoch)
        loader = EpochLoader(
            data,
            batch_sampler=_Shards(self._batches, self.items),
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=partial(seed_worker, seed=seed_of(self.seed, epoch, rank())),
            # Its own: an iterator draws once when it is made, and after a restart an epoch makes fewer iterators.
            generator=torch.Generator(),
        )
        if self.resume_point is not None and self.resume_point.epoch == epoch:
            loader.resume_point = self.resume_point
        return loader

    def _build_sampler(self, data: FaceDataset, epoch: int) -> Sampler[list[int]]:
        """The batches of all processes together."""
        if self.people:
            self.sampler.set_epoch(epoch)
            batches: Sampler[list[int]] = self.sampler
            # Of either kind, so that every process has a gradient for everything that is trained.
            smallest = self.batch.identities_per_batch * min(self.batch.n_clips, self.batch.n_stills)
        else:
            # As in one process, since each draws the whole: it draws from the seed alone.
            images: DistributedSampler[Any] = DistributedSampler(data, 1, 0, seed=seed_of(IMAGES, self.seed))
            images.set_epoch(epoch)
            # A last batch of one image would break batch norm.
            smallest = min(self.batch.batch_size, len(images))
            batches = BatchSampler(images, smallest, drop_last=True)
        if smallest < world_size():
            what = "clips or stills" if self.people else "images"
            raise UserError(f"batch: {world_size()} processes cannot share {smallest} {what} a batch; enlarge it")
        return batches

    def batch_items(self, batch_idx: int) -> list[Clip | Still]:
        """All clips and stills of a batch of this epoch; its sampler draws the same every time."""
        return [self.items[i] for i in [*self._batches][batch_idx]]

    def val_batches(self) -> list[list[int]]:
        """This process's batches of indices into `val_items`; the first again if it had none."""
        n = len(self.val_items) if self.has_val else 0
        batches = [list(range(start, min(start + _N_VAL, n))) for start in range(0, n, _N_VAL)]
        return shard(batches) or batches[:1]

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of `val_items`."""
        data = FaceDataset(self.faces, self.val_items)
        return DataLoader(data, batch_sampler=self.val_batches(), collate_fn=collate, num_workers=self.num_workers)


class EpochLoader(DataLoader[Any]):
    """Batches of one epoch, or the rest of one that was interrupted."""

    resume_point: ResumePoint | None = None

    def __iter__(self) -> Any:
        """Yield batches."""
        batches = super().__iter__()
        return batches if self.resume_point is None else self._rest(batches, self.resume_point)

    def _rest(self, batches: Iterator[Any], point: ResumePoint) -> Iterator[Any]:
        # Made and thrown away, since later ones draw after them in the processes that prepare batches.
        for _ in islice(batches, point.n_batches):
            pass
        set_random_state(point.random)
        yield from batches


class _Shards(Sampler[list[int]]):
    """This process's shard of batches of items.

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
    """Every image that may be trained on, each once, as a still."""
    frames = [still for clip in split.train.clips for still in faces.frames_as_stills(clip)]
    stills = [*split.train.stills, *split.pretrain_only]
    # A frame may stand in for a still; ORL's stills are its frames' files under another key.
    seen = set(zip(*_file_and_position(faces, frames), strict=True))
    places = zip(*_file_and_position(faces, stills), strict=True)
    return [*frames, *(still for still, place in zip(stills, places, strict=True) if place not in seen)]


def _file_and_position(faces: FaceSet, stills: Sequence[Still]) -> tuple[list[str], list[int]]:
    rows = [still.row for still in stills]
    return faces.column("file", rows), faces.column("position", rows)
