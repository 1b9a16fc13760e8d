"""The LightningModule: it connects encoder, augmentation, head and loss, and computes nothing itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from facereel.data import Batch, augment_batch
from facereel.errors import UserError
from facereel.evaluation.encode import Encoded, labels_of
from facereel.evaluation.metrics import mean_map
from facereel.evaluation.split import Part
from facereel.losses import Outputs
from facereel.models import AugmentedFeatures, LabeledFeatures, SphericalAugment, VideoHasher, WholeBatch
from facereel.parallel.distributed import gather, gather_by_index, rank, world_size
from facereel.training.data_module import FaceDataModule
from facereel.training.optimization import OptimizationOptions
from facereel.training.resume import resume_mismatch, resume_record
from facereel.training.seeds import AUGMENT, MOVES, seed_of, torch_seeded


class HashingModule(pl.LightningModule):
    """One training stage of a `VideoHasher`, on the batches of a `FaceDataModule`.

    With several processes, each encodes its shard of a batch and computes the loss of the whole batch: see
    `facereel.parallel.distributed.gather` for why the gradient equals that of one process.

    Args:
        hasher: model, trained in place.
        loss: called with an `Outputs`.
        optimization: options of the optimizer and the schedule.
        train_hash: False for pretraining, which trains only the encoder.
        feature_augment: applied to features in training, or None.
        image_augment: applied to the images of training batches, on the device of the model, or None.
        seed: together with the epoch and the batch, it determines the draws of both augmentations.
    """

    def __init__(
        self,
        hasher: VideoHasher,
        loss: nn.Module,
        optimization: OptimizationOptions | None = None,
        *,
        train_hash: bool = True,
        feature_augment: SphericalAugment | None = None,
        image_augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if feature_augment is not None:
            feature_augment.check(hasher.pooling, getattr(loss, "proxies", None))
        self.hasher = hasher
        self.loss = loss
        self.optimization = optimization or OptimizationOptions()
        self.train_hash = train_hash
        self.feature_augment = feature_augment
        self.image_augment = image_augment
        self.seed = seed
        self._val_scores: list[Tensor] = []

    @property
    def data(self) -> FaceDataModule:
        """Data module of the trainer."""
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts except frozen batch norms, and return the module."""
        super().train(mode)
        if self.optimization.freeze_batch_norm:
            for part in self.hasher.encoder.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return self

    def build_optimizer(self) -> Optimizer:
        """Return a new optimizer; see `OptimizationOptions.build_optimizer`."""
        return self.optimization.build_optimizer(self.hasher, self.loss)

    # The hooks, in the order in which they run.

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits this stage. A callback would be too late: it runs after weights are loaded.

        Raises:
            UserError: if the optimizer, the people, the model or the loss differ.
        """
        if mismatch := resume_mismatch(checkpoint, self):
            folder = Path(self.trainer.default_root_dir)
            raise UserError(
                f"Cannot resume from {folder / 'last.ckpt'}: {mismatch}. Delete it to train {folder.name} again, or "
                "restore the data and options it was trained with."
            )

    def setup(self, stage: str) -> None:
        """Freeze parameters before DistributedDataParallel looks at them."""
        if self.optimization.freeze_encoder:
            self.hasher.encoder.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule."""
        optimizer = self.build_optimizer()
        if self.optimization.schedule == "constant":
            return optimizer
        schedule = self.optimization.build_one_cycle(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Set the mode here: Lightning does not change it."""
        self.train()

    def on_train_start(self) -> None:
        """Apply the optimizer options and the schedule that are configured now: a checkpoint restores its own."""
        if self.global_step == 0:
            return
        (optimizer,) = self.trainer.optimizers
        for group, configured in zip(optimizer.param_groups, self.build_optimizer().param_groups, strict=True):
            group.update({key: value for key, value in configured.items() if key != "params"})
        n_steps = int(self.trainer.estimated_stepping_batches)
        for config in self.trainer.lr_scheduler_configs:
            # This writes its limits into the groups, from which the next call reads them.
            self.optimization.build_one_cycle(optimizer, n_steps)
            config.scheduler = self.optimization.build_one_cycle(optimizer, n_steps, self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        place = self.seed, self.current_epoch, batch_idx
        if self.image_augment is not None:
            # Not the state that a loader without workers draws from: it prepares batches ahead.
            with torch_seeded(self.device, AUGMENT, *place, rank()):
                batch = augment_batch(batch, self.image_augment)
        draws = torch.Generator(self.device).manual_seed(seed_of(MOVES, *place))
        outputs = self.outputs(batch, draws)
        loss: Tensor = self.loss(outputs)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(outputs.features))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Clear the scores of the last epoch."""
        self._val_scores = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Encode val queries and their gallery; pretraining has no codes yet and uses mean features."""
        if len(batch.clips):
            frozen = self.optimization.freeze_encoder
            frames = batch.clips if frozen else self.hasher.clip_features(batch.clips / 255, batch.mask)
            mean = frames.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)
            scores = self.hasher.hash_clips(frames, batch.mask) if self.train_hash else normalize(mean, dim=1)
            self._val_scores.append(scores.float().cpu())
        if len(batch.stills):
            features = self._features(batch.stills)
            scores = self.hasher.hash_stills(features) if self.train_hash else normalize(features, dim=1)
            self._val_scores.append(scores.float().cpu())

    def on_validation_epoch_end(self) -> None:
        """Log val/mAP, the mean over tasks, from codes or, in pretraining, from real-valued features."""
        items = self.data.val_items
        own = torch.cat(self._val_scores)
        ids = torch.tensor([i for batch in self.data.val_batches() for i in batch])
        scores = gather_by_index(ids[: len(own)], own, len(items))
        if scores is None:
            return  # the sanity check of Lightning stops after some batches
        places = {id(item): i for i, item in enumerate(items)}

        def encoded(part: Part) -> dict[str, Encoded]:
            kinds = part.by_kind
            values = {kind: scores[[places[id(item)] for item in members]] for kind, members in kinds.items()}
            return {kind: Encoded(x > 0.5, x, labels_of(kinds[kind]), kinds[kind]) for kind, x in values.items()}

        queries, gallery = map(encoded, self.data.val_sides)
        value = mean_map(queries, gallery, real_valued=not self.train_hash)
        if value is not None:
            self.log("val/mAP", value, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the architecture, for `VideoHasher.load`, and the entries that `resume_mismatch` compares."""
        checkpoint.update(resume_record(self))

    # The training batch.

    def outputs(self, batch: Batch, draws: torch.Generator | None = None) -> Outputs:
        """Run the model on a training batch, with one pass of the encoder over stills and frames together.

        Args:
            batch: the shard of this process.
            draws: random generator of the feature augmentation, the same in all processes; None uses the global one.

        Returns:
            The outputs of all processes, in the same order as with one process.
        """
        n_stills, n_clips = len(batch.stills), len(batch.clips)
        own = self._features(torch.cat([batch.stills, batch.clips[batch.mask]]))
        frame_labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
        own_labels = torch.cat([batch.still_labels, frame_labels])
        features, feature_labels = gather(own, own_labels, kinds=_after(n_stills, own_labels))
        if not self.train_hash:
            none = batch.still_labels[:0]
            if self.feature_augment is not None:
                images = LabeledFeatures(own, own_labels, own[:0, None], none.bool()[:, None], none)
                hashed = self._augmented(images, n_stills, features, feature_labels, draws)
                kinds = _after(len(own), hashed.still_labels)
                features, feature_labels = gather(hashed.stills, hashed.still_labels, kinds=kinds)
            return Outputs(features, feature_labels, features[:0], none, none.bool())
        frames = own.new_zeros(*batch.mask.shape, own.shape[1])
        frames = frames.masked_scatter(batch.mask[..., None], own[n_stills:])
        shared = LabeledFeatures(own[:n_stills], batch.still_labels, frames, batch.mask, batch.clip_labels)
        hashed = self._augmented(shared, n_stills, features, feature_labels, draws)
        still_scores = self.hasher.hash_stills(hashed.stills)
        # A batch of single images has no clip to pool.
        scores = torch.cat([self.hasher.hash_pooled(hashed.pooled), still_scores]) if n_clips else still_scores
        labels = torch.cat([hashed.clip_labels, hashed.still_labels])
        # The order is clips, their moved copies, stills, their moved copies.
        kinds = torch.cat([_after(n_clips, hashed.clip_labels), 2 + _after(n_stills, hashed.still_labels)])
        scores, labels, kinds = gather(scores, labels, kinds, kinds=kinds)
        return Outputs(features, feature_labels, scores, labels, kinds < 2)

    def _features(self, images: Tensor) -> Tensor:
        """Return features (S, D) of uint8 images (S, 3, H, W), or the argument if the batch contains features."""
        return images if self.optimization.freeze_encoder else self.hasher.features(images / 255)

    def _augmented(
        self, batch: LabeledFeatures, n_stills: int, features: Tensor, labels: Tensor, draws: torch.Generator | None
    ) -> AugmentedFeatures:
        """Return the pooled clips of this process, augmented if the stage has an augmentation.

        `features` and `labels` belong to the whole batch, stills before frames. In pretraining the frames of `batch`
        are also stills, after the first n_stills.
        """
        with torch.autocast(batch.frames.device.type, enabled=False):
            if self.feature_augment is None:
                pooled = self.hasher.pooling(batch.frames, batch.mask) if len(batch.frames) else batch.frames
                return AugmentedFeatures(batch.stills, batch.still_labels, pooled, batch.clip_labels)
            whole = None
            if world_size() > 1:
                (stills, still_ranks), (clips, clip_ranks) = (
                    gather(kind, torch.full_like(kind, rank()), kinds=_after(n, kind))
                    for kind, n in ((batch.still_labels, n_stills), (batch.clip_labels, len(batch.clip_labels)))
                )
                whole = WholeBatch(features, labels, stills, clips, still_ranks == rank(), clip_ranks == rank())
            return self.feature_augment(batch, self.hasher.pooling, getattr(self.loss, "proxies", None), whole, draws)


def _after(n: int, rows: Tensor) -> Tensor:
    """Return (N,) int64 for N rows: 0 for the first n, 1 for the others."""
    return (torch.arange(len(rows), device=rows.device) >= n).long()
