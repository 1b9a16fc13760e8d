"""The LightningModule: it wires encoder, augmentation, head and loss, and computes nothing itself."""

from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from facereel.data import Batch
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
from facereel.training.seeds import MOVES, seed_of


class HashingModule(pl.LightningModule):
    """One training stage of a `VideoHasher`, on the batches of a `FaceDataModule`.

    In several processes each encodes its shard of a batch, and computes the loss of all of it: see
    `facereel.parallel.distributed.gather` for why the gradient is that of one process.

    Args:
        hasher: trained in place.
        loss: called with an `Outputs`.
        optimization: what is optimized, and how.
        train_hash: False for pretraining, which trains the encoder only.
        feature_augment: applied to features in training, or None.
        seed: with the epoch and the batch, it decides what `feature_augment` draws.
    """

    def __init__(
        self,
        hasher: VideoHasher,
        loss: nn.Module,
        optimization: OptimizationOptions | None = None,
        *,
        train_hash: bool = True,
        feature_augment: SphericalAugment | None = None,
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
        self.seed = seed
        self._val_scores: list[Tensor] = []

    @property
    def data(self) -> FaceDataModule:
        """The data module of the trainer."""
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts except frozen batch norms."""
        super().train(mode)
        if self.optimization.freeze_batch_norm:
            for part in self.hasher.encoder.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return self

    def build_optimizer(self) -> Optimizer:
        """Build the optimizer; see `OptimizationOptions.build_optimizer`."""
        return self.optimization.build_optimizer(self.hasher, self.loss)

    # The hooks, in the order in which they run.

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this stage. A callback could not: it would run after weights are loaded.

        Raises:
            UserError: if it is of another optimizer, other people, or another model or loss.
        """
        if mismatch := resume_mismatch(checkpoint, self):
            folder = Path(self.trainer.default_root_dir)
            raise UserError(
                f"Cannot resume from {folder / 'last.ckpt'}: {mismatch}. Delete it to train {folder.name} again, or "
                "restore what it was trained with."
            )

    def setup(self, stage: str) -> None:
        """Freeze parameters before DistributedDataParallel looks at them."""
        if self.optimization.freeze_encoder:
            self.hasher.encoder.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule."""
        optimizer = self.build_optimizer()
        if self.optimization.schedule == "constant":
            return optimizer
        schedule = self.optimization.build_one_cycle(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Set the mode here: Lightning does not change it."""
        self.train()

    def on_train_start(self) -> None:
        """Use the optimizer's options and the schedule as they are configured now: a checkpoint restores its own."""
        if self.global_step == 0:
            return
        (optimizer,) = self.trainer.optimizers
        for group, configured in zip(optimizer.param_groups, self.build_optimizer().param_groups, strict=True):
            group.update({key: value for key, value in configured.items() if key != "params"})
        n_steps = int(self.trainer.estimated_stepping_batches)
        for config in self.trainer.lr_scheduler_configs:
            # Puts its ends into the groups, from which the next one reads them.
            self.optimization.build_one_cycle(optimizer, n_steps)
            config.scheduler = self.optimization.build_one_cycle(optimizer, n_steps, self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        draws = torch.Generator(self.device).manual_seed(seed_of(MOVES, self.seed, self.current_epoch, batch_idx))
        outputs = self.outputs(batch, draws)
        loss: Tensor = self.loss(outputs)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(outputs.features))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self._val_scores = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Encode val queries and their gallery; pretraining has no codes yet and keeps mean features."""
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
        """Log val/mAP, the mean over tasks: of codes, or in pretraining of real-valued features."""
        items = self.data.val_items
        own = torch.cat(self._val_scores)
        ids = torch.tensor([i for batch in self.data.val_batches() for i in batch])
        scores = gather_by_index(ids[: len(own)], own, len(items))
        if scores is None:
            return  # Lightning's sanity check stops after some batches
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
        """Add the architecture, for `VideoHasher.load`, and what `resume_mismatch` compares."""
        checkpoint.update(resume_record(self))

    # The training batch.

    def outputs(self, batch: Batch, draws: torch.Generator | None = None) -> Outputs:
        """Run the model on a training batch; one pass of the encoder over stills and frames together.

        Args:
            batch: this process's shard of it.
            draws: random generator of the augmentation of features, the same in all processes; None takes the global
                generator.

        Returns:
            The outputs of all processes, in the order in which one process would have them.
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
        # Clips, their moved copies, stills, theirs.
        kinds = torch.cat([_after(n_clips, hashed.clip_labels), 2 + _after(n_stills, hashed.still_labels)])
        scores, labels, kinds = gather(scores, labels, kinds, kinds=kinds)
        return Outputs(features, feature_labels, scores, labels, kinds < 2)

    def _features(self, images: Tensor) -> Tensor:
        """(S, 3, H, W) uint8 images, or the features in their place -> (S, D)."""
        return images if self.optimization.freeze_encoder else self.hasher.features(images / 255)

    def _augmented(
        self, batch: LabeledFeatures, n_stills: int, features: Tensor, labels: Tensor, draws: torch.Generator | None
    ) -> AugmentedFeatures:
        """Pool this process's clips, and augment if the stage does.

        `features` and `labels` are of the whole batch, stills before frames; in pretraining the frames of `batch` are
        stills too, after the n_stills true ones.
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
    """(N,) int64 for N rows: 0 for the first n, 1 for those after them."""
    return (torch.arange(len(rows), device=rows.device) >= n).long()
