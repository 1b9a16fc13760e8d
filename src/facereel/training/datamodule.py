"""The DataModule: batches of one stage from a data set and its split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Sampler

from facereel.data import Clip, FaceItems, FaceSet, PeopleBatchSampler, Still, collate, share
from facereel.errors import UserError
from facereel.evaluation.split import Split, has_match
from facereel.processes import own, rank, world_size
from facereel.training.seeds import PICTURES, seed_of, seed_worker, set_random_state


class Begun(NamedTuple):
    """An epoch of which some batches were trained on before a run was stopped."""

    epoch: int
    n_batches: int
    random: dict[str, Any]
    """The state of the random generators behind the last of them, see `random_state`."""


class EpochLoader(DataLoader[Any]):
    """Batches of one epoch, or the rest of one that was begun."""

    begun: Begun | None = None

    def __iter__(self) -> Any:
        """Yield batches."""
        batches = super().__iter__()
        return batches if self.begun is None else self._rest(batches, self.begun)

    def _rest(self, batches: Iterator[Any], begun: Begun) -> Iterator[Any]:
        # Made and thrown away, since later ones draw behind them in the processes that prepare batches.
        for _ in islice(batches, begun.n_batches):
            pass
        set_random_state(begun.random)
        yield from batches


# Val items in a batch.
_N_VAL = 32


class FaceDataModule(pl.LightningDataModule):
    """Batches of people, or of single pictures.

    Several processes draw the batches that one would, and share each: the numbers below are of the whole.

    Args:
        faces: the data set, or its features (see `FaceSet.with_features`).
        split: only its train and val parts are read here.
        seed: of the batches; with the epoch, it decides them.
        people: batches of people; False gives plain pictures: frames, stills, and the stills of people without clips.
        n_people: P people a batch.
        n_clips: C clips each.
        n_stills: S stills each.
        n_frames: at most so many frames of a clip, drawn at random.
        n_pictures: size of a batch of pictures.
        transform: applied to the frames of each training clip and still, see `PictureAugment`.
        num_workers: processes that prepare batches.

    Raises:
        UserError: if there is too little to train on.
    """

    def __init__(
        self,
        faces: FaceSet,
        split: Split,
        seed: int,
        people: bool,
        n_people: int,
        n_clips: int,
        n_stills: int,
        n_frames: int,
        n_pictures: int,
        transform: Callable[[Tensor], Tensor] | None,
        num_workers: int,
    ) -> None:
        super().__init__()
        if n_frames < 1:
            raise UserError(f"batch.n_frames={n_frames}: a clip needs at least one frame")
        self.faces, self.split, self.seed = faces, split, seed
        self.people, self.n_frames, self.n_pictures = people, n_frames, n_pictures
        self.transform, self.num_workers = transform, num_workers
        self.begun: Begun | None = None
        self.items: list[Clip | Still] = [*split.train.clips, *split.train.stills]
        if people:
            self.sampler = PeopleBatchSampler(self.items, n_people, n_clips, n_stills, seed)
        else:
            self.items = pictures_of(faces, split)
            if len(self.items) < 2 or n_pictures < 2:
                raise UserError("a stage on pictures needs at least two, and batch.n_pictures of at least 2")
        gallery = split.gallery(split.val)
        sides = {"queries": split.val, "gallery": gallery}
        self.val_items: dict[str, list[Any]] = {}
        self.val_sides: dict[str, dict[str, Tensor]] = {}
        for kind in ("clip", "still"):
            parts = {side: part.clips if kind == "clip" else part.stills for side, part in sides.items()}
            unique = {id(item): item for members in parts.values() for item in members}
            place = {key: i for i, key in enumerate(unique)}
            self.val_items[kind] = list(unique.values())
            self.val_sides[kind] = {
                side: torch.tensor([place[id(item)] for item in members], dtype=torch.int64)
                for side, members in parts.items()
            }

    @property
    def has_val(self) -> bool:
        """Whether there is a val query that can find something, to choose a checkpoint by."""
        return has_match(self.split.val, self.split.gallery(self.split.val))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of one epoch."""
        # Lightning tells the epoch to samplers of items only; it asks for this loader anew at every epoch.
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        data = FaceItems(self.faces, self.items, self.n_frames, self.transform)
        if self.people:
            self.sampler.set_epoch(epoch)
            batches: Sampler[list[int]] = self.sampler
            # Of either kind, so that every process has a gradient for all that is trained.
            fewest = self.sampler.n_people * min(self.sampler.n_clips, self.sampler.n_stills)
        else:
            # Of one process, since each draws the whole: it draws from the seed alone.
            pictures: DistributedSampler[Any] = DistributedSampler(data, 1, 0, seed=seed_of(PICTURES, self.seed))
            pictures.set_epoch(epoch)
            # A last batch of one picture would break batch norm.
            fewest = min(self.n_pictures, len(pictures))
            batches = BatchSampler(pictures, fewest, drop_last=True)
        if fewest < world_size():
            what = "clips or stills" if self.people else "pictures"
            raise UserError(f"batch: {world_size()} processes cannot share {fewest} {what} a batch; enlarge it")
        self._batches = batches
        loader = EpochLoader(
            data,
            batch_sampler=_Shares(batches, self.items),
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=partial(seed_worker, seed=seed_of(self.seed, epoch, rank())),
            # Its own: an iterator draws once when it is made, and an epoch behind a restart makes fewer iterators.
            generator=torch.Generator(),
        )
        if self.begun is not None and self.begun.epoch == epoch:
            loader.begun = self.begun
        return loader

    def batch_items(self, batch_idx: int) -> list[Clip | Still]:
        """The clips and stills of this epoch's batch, all of it; its sampler draws the same whenever it is asked."""
        return [self.items[i] for i in [*self._batches][batch_idx]]

    def val_batches(self) -> list[list[int]]:
        """This process's batches of val items by number, clips before stills; the first again if it had none."""
        n = sum(map(len, self.val_items.values()))
        batches = [list(range(start, min(start + _N_VAL, n))) for start in range(0, n, _N_VAL)]
        return own(batches) or batches[:1]

    def val_ids(self, kind: str) -> Tensor:
        """The numbers, among all of their kind, of the clips or stills in this process's val batches; int64."""
        n_clips = len(self.val_items["clip"])
        places = torch.tensor([i for batch in self.val_batches() for i in batch], dtype=torch.int64)
        return places[places < n_clips] if kind == "clip" else places[places >= n_clips] - n_clips

    def val_dataloader(self) -> DataLoader[Any]:
        """Val queries and what they search, each item once: clips, then stills."""
        items: Sequence[Any] = [*self.val_items["clip"], *self.val_items["still"]] if self.has_val else []
        batches = self.val_batches() if self.has_val else []
        return DataLoader(
            FaceItems(self.faces, items), batch_sampler=batches, collate_fn=collate, num_workers=self.num_workers
        )


class _Shares(Sampler[list[int]]):
    """This process's share of batches of items."""

    def __init__(self, batches: Sampler[list[int]], items: Sequence[Clip | Still]) -> None:
        self.batches = batches
        self.is_clip = [isinstance(item, Clip) for item in items]

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield share(batch, self.is_clip, rank(), world_size())


def pictures_of(faces: FaceSet, split: Split) -> list[Clip | Still]:
    """Every picture that may be trained on, each once, as a still."""
    frames = [still for clip in split.train.clips for still in faces.frames_as_stills(clip)]
    stills = [*split.train.stills, *split.pretrain_only]
    # A frame may stand in for a still; ORL's stills are its frames' files under another key.
    seen = set(zip(*_file_and_position(faces, frames), strict=True))
    places = zip(*_file_and_position(faces, stills), strict=True)
    return [*frames, *(still for still, place in zip(stills, places, strict=True) if place not in seen)]


def _file_and_position(faces: FaceSet, stills: Sequence[Still]) -> tuple[list[str], list[int]]:
    rows = [still.row for still in stills]
    return faces.column("file", rows), faces.column("position", rows)
