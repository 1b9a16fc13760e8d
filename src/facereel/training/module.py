"""The LightningModule: it wires encoder, augmentation, head and loss, and computes nothing itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from facereel.data import Batch, Clip
from facereel.errors import UserError
from facereel.evaluation.encode import Encoded, labels_of
from facereel.evaluation.metrics import mean_map
from facereel.files import write_beside
from facereel.losses import Outputs
from facereel.models import AugmentedFeatures, LabelledFeatures, SphericalAugment, VideoHasher, WholeBatch
from facereel.processes import by_id, gather, rank, world_size
from facereel.saved_run import first_difference
from facereel.training.datamodule import FaceDataModule
from facereel.training.gradient_limit import GradientLimit, max_norm
from facereel.training.seeds import EPOCH, MOVES, seed_all, seed_of

SCHEDULES = ("constant", "one_cycle")
NONFINITE = ("stop", "skip")


class HashingModule(pl.LightningModule):
    """One training stage of a `VideoHasher`.

    In several processes each encodes its share of a batch, and computes the loss of all of it: see
    `facereel.processes.gather` for why the gradient is that of one process.

    Args:
        hasher: trained in place.
        loss: called with an `Outputs`.
        make_optimizer: from parameter groups.
        lr: learning rate of the trunk.
        head_lr_factor: learning rate of the hash layers and the loss's own parameters over that of the trunk.
        schedule: "constant" or "one_cycle" (Smith and Topin 2018: up for a tenth of the steps, then down by cosine).
        trains_codes: False for pretraining, which trains the encoder only.
        freeze_encoder: batches hold features in place of pictures.
        feature_augment: applied to features in training, or None.
        freeze_batch_norm: keep the encoder's batch-norm statistics as they are: a batch of few people has others than
            the pictures that are searched later.
        seed: with the epoch and the process, it decides what is drawn in training; with the epoch and the batch alone,
            what `feature_augment` draws.
        nonfinite: what to do in a step whose loss or gradient is not finite, or whose gradient is too large: "stop" the
            run, or "skip" the step and count it. The batches accumulated so far in that step are skipped with it.
        max_gradient_ratio: largest absolute value in a gradient, before clipping, in units of the usual one: see
            `facereel.training.gradient_limit.GradientLimit`.
    """

    def __init__(
        self,
        hasher: VideoHasher,
        loss: nn.Module,
        make_optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        lr: float,
        head_lr_factor: float = 1.0,
        schedule: str = "constant",
        trains_codes: bool = True,
        feature_augment: SphericalAugment | None = None,
        freeze_batch_norm: bool = False,
        freeze_encoder: bool = False,
        seed: int = 0,
        nonfinite: str = "stop",
        max_gradient_ratio: float = 1e6,
    ) -> None:
        super().__init__()
        if nonfinite not in NONFINITE:
            raise UserError(f"trainer.nonfinite={nonfinite}: must be one of {', '.join(NONFINITE)}")
        if schedule not in SCHEDULES:
            raise UserError(f"schedule={schedule}: must be one of {', '.join(SCHEDULES)}")
        if feature_augment is not None:
            feature_augment.check(hasher.pooling, getattr(loss, "proxies", None))
        self.hasher = hasher
        self.loss = loss
        self.feature_augment = feature_augment
        self.make_optimizer = make_optimizer
        self.lr = lr
        self.head_lr_factor = head_lr_factor
        self.schedule = schedule
        self.trains_codes = trains_codes
        self.freeze_batch_norm = freeze_batch_norm
        self.freeze_encoder = freeze_encoder
        self.seed = seed
        self.nonfinite = nonfinite
        self.nonfinite_steps: Tensor
        # In checkpoints, so that a run that is continued goes on counting.
        self.register_buffer("nonfinite_steps", torch.zeros((), dtype=torch.int64))
        self._limit = GradientLimit(max_gradient_ratio)
        self._norm = 0.0
        self._encoded: dict[str, list[Tensor]] = {}
        self._before: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> HashingModule:
        """Set the mode of all parts, but of frozen batch norms."""
        super().train(mode)
        if self.freeze_batch_norm:
            for part in self.hasher.encoder.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return self

    def setup(self, stage: str) -> None:
        """Tell DistributedDataParallel, which has not seen the model yet, what gets no gradient."""
        if self.freeze_encoder:
            self.hasher.encoder.requires_grad_(False)

    def on_fit_start(self) -> None:
        """Set the mode here: Lightning leaves it as it finds it."""
        self.train()

    def on_train_epoch_start(self) -> None:
        """Draw in this epoch what would be drawn without those before, which may have run in another process."""
        seed_all(EPOCH, self.seed, self.current_epoch, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        draws = torch.Generator(self.device).manual_seed(seed_of(MOVES, self.seed, self.current_epoch, batch_idx))
        outputs = self.outputs(batch, draws)
        loss: Tensor = self.loss(outputs)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(outputs.features))
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep what a step changes besides weights: statistics of batch norms, class means, counters."""
        if self.nonfinite == "skip":
            self._before = {name: buffer.clone() for name, buffer in self.named_buffers()}

    def on_before_backward(self, loss: Tensor) -> None:
        """Keep the loss: it may be NaN where the gradient is not."""
        self._loss = loss.detach()

    def on_after_backward(self) -> None:
        """Keep a loss or gradient that is not finite, or a gradient that is too large, from the weights.

        Raises:
            UserError: if the run is to stop then.
        """
        # With 16-mixed a scaler meets such gradients as a rule, and skips these steps.
        scaled = self.trainer.precision == "16-mixed"
        gradients = [] if scaled else [p.grad for p in self.parameters() if p.grad is not None]
        # Together, so that a GPU is waited for once.
        loss, self._norm = torch.stack([self._loss.float(), max_norm(gradients, self._loss)]).tolist()
        problem = self._limit.problem(self._norm) if math.isfinite(loss) else "the loss is not finite"
        # All processes skip the same steps, though each has a loss of its own.
        if self.trainer.strategy.reduce_boolean_decision(problem is None, all=True):
            return
        if self.nonfinite == "stop":
            problem = problem or "another process had a loss or gradient that is not finite, or too large,"
            raise UserError(
                f"{Path(self.trainer.default_root_dir).name}: {problem} in epoch "
                f"{self.current_epoch + 1}, step {self.global_step + 1} (its batch is named in {self._write_batch()}): "
                "lower the learning rate, or skip such steps with trainer.nonfinite=skip"
            )
        for name, buffer in self.named_buffers():
            buffer.copy_(self._before[name])
        self.nonfinite_steps += 1
        self._norm = 0.0
        if not scaled:
            # Without gradients the optimizer leaves weights and momentum as they are.
            self.zero_grad(set_to_none=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Count the norm of the whole step, of all its batches and processes, towards the usual one."""
        self._limit.record(self._norm)

    def _write_batch(self) -> Path:
        """Name the clips and stills of the batch, those of all processes, in a file of the stage's folder."""
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        items = data.batch_items(self.trainer.fit_loop.epoch_loop.batch_idx)
        content: dict[str, Any] = {"epoch": self.current_epoch + 1, "step": self.global_step + 1}
        content["clips"] = [item.key for item in items if isinstance(item, Clip)]
        content["stills"] = [item.key for item in items if not isinstance(item, Clip)]
        file = Path(self.trainer.default_root_dir) / "nonfinite_batch.json"
        if rank() == 0:
            with write_beside(file) as path:
                path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return file

    def on_train_epoch_end(self) -> None:
        """Log how many steps were left out so far."""
        if self.nonfinite == "skip":
            self.log("train/nonfinite_steps", self.nonfinite_steps.float())

    def outputs(self, batch: Batch, draws: torch.Generator | None = None) -> Outputs:
        """Run the model on a training batch; one pass of the encoder over stills and frames together.

        Args:
            batch: this process's share of it.
            draws: what the augmentation of features draws from, alike in all processes; None takes the global
                generator.

        Returns:
            What all processes have together, in the order in which one would have it.
        """
        n_stills, n_clips = len(batch.stills), len(batch.clips)
        own = self._features(torch.cat([batch.stills, batch.clips[batch.mask]]))
        frame_labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
        own_labels = torch.cat([batch.still_labels, frame_labels])
        features, feature_labels = gather(own, own_labels, kinds=_behind(n_stills, own_labels))
        if not self.trains_codes:
            none = batch.still_labels[:0]
            if self.feature_augment is not None:
                pictures = LabelledFeatures(own, own_labels, own[:0, None], none.bool()[:, None], none)
                hashed = self._augmented(pictures, n_stills, features, feature_labels, draws)
                behind = _behind(len(own), hashed.still_labels)
                features, feature_labels = gather(hashed.stills, hashed.still_labels, kinds=behind)
            return Outputs(features, feature_labels, features[:0], none, none.bool())
        frames = own.new_zeros(*batch.mask.shape, own.shape[1])
        frames = frames.masked_scatter(batch.mask[..., None], own[n_stills:])
        shared = LabelledFeatures(own[:n_stills], batch.still_labels, frames, batch.mask, batch.clip_labels)
        hashed = self._augmented(shared, n_stills, features, feature_labels, draws)
        still_scores = self.hasher.hash_stills(hashed.stills)
        # A batch of single pictures has no clip to pool.
        scores = torch.cat([self.hasher.hash_pooled(hashed.pooled), still_scores]) if n_clips else still_scores
        labels = torch.cat([hashed.clip_labels, hashed.still_labels])
        # Clips, their moved copies, stills, theirs.
        kinds = torch.cat([_behind(n_clips, hashed.clip_labels), 2 + _behind(n_stills, hashed.still_labels)])
        scores, labels, kinds = gather(scores, labels, kinds, kinds=kinds)
        return Outputs(features, feature_labels, scores, labels, kinds < 2)

    def _features(self, pictures: Tensor) -> Tensor:
        """(S, 3, H, W) uint8 pictures, or the features in their place -> (S, D)."""
        return pictures if self.freeze_encoder else self.hasher.features(pictures / 255)

    def _augmented(
        self, batch: LabelledFeatures, n_stills: int, features: Tensor, labels: Tensor, draws: torch.Generator | None
    ) -> AugmentedFeatures:
        """Pool this process's clips, and augment if the stage does.

        Args:
            batch: this process's share; pretraining takes frames for stills, behind the n_stills that are.
            n_stills: how many those are.
            features: of the whole batch, stills before frames.
            labels: of those.
            draws: as for `outputs`.
        """
        with torch.autocast(batch.frames.device.type, enabled=False):
            if self.feature_augment is None:
                pooled = self.hasher.pooling(batch.frames, batch.mask) if len(batch.frames) else batch.frames
                return AugmentedFeatures(batch.stills, batch.still_labels, pooled, batch.clip_labels)
            whole = None
            if world_size() > 1:
                (stills, still_ranks), (clips, clip_ranks) = (
                    gather(kind, torch.full_like(kind, rank()), kinds=_behind(n, kind))
                    for kind, n in ((batch.still_labels, n_stills), (batch.clip_labels, len(batch.clip_labels)))
                )
                whole = WholeBatch(features, labels, stills, clips, still_ranks == rank(), clip_ranks == rank())
            return self.feature_augment(batch, self.hasher.pooling, getattr(self.loss, "proxies", None), whole, draws)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's codes."""
        self._encoded = {"clip": [], "still": []}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Encode val queries and their gallery; pretraining has no codes yet and keeps mean features."""
        if len(batch.clips):
            frames = batch.clips if self.freeze_encoder else self.hasher.clip_features(batch.clips / 255, batch.mask)
            mean = frames.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)
            scores = self.hasher.hash_clips(frames, batch.mask) if self.trains_codes else normalize(mean, dim=1)
            self._encoded["clip"].append(scores.float().cpu())
        if len(batch.stills):
            features = self._features(batch.stills)
            scores = self.hasher.hash_stills(features) if self.trains_codes else normalize(features, dim=1)
            self._encoded["still"].append(scores.float().cpu())

    def on_validation_epoch_end(self) -> None:
        """Log val/mAP, the mean over tasks: of codes, or in pretraining of real-valued features."""
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        sides: dict[str, dict[str, Encoded]] = {"queries": {}, "gallery": {}}
        width = self.hasher.n_bits if self.trains_codes else self.hasher.encoder.dim
        for kind, chunks in self._encoded.items():
            items = data.val_items[kind]
            if not items:
                continue
            own = torch.cat([torch.zeros(0, width), *chunks])
            scores = by_id(data.val_ids(kind)[: len(own)], own, len(items))
            if scores is None:
                continue  # Lightning's sanity check stops after some batches
            for side, chosen in data.val_sides[kind].items():
                if len(chosen):
                    members = [items[int(i)] for i in chosen]
                    values = scores[chosen]
                    sides[side][kind] = Encoded(values > 0.5, values, labels_of(members), members)
        value = mean_map(sides["queries"], sides["gallery"], real_valued=not self.trains_codes)
        if value is not None:
            self.log("val/mAP", value, prog_bar=True)

    def build_optimizer(self) -> Optimizer:
        """Build the optimizer with two parameter groups, trunk and head.

        Raises:
            UserError: for options that it does not take.
        """
        encoder = [] if self.freeze_encoder else self.hasher.encoder.parameters()
        trunk = [*encoder, *self.hasher.pooling.parameters()]
        head = [*self.hasher.head.parameters(), *self.loss.parameters()]
        groups = [{"params": trunk, "lr": self.lr}, {"params": head, "lr": self.lr * self.head_lr_factor}]
        try:
            return self.make_optimizer(groups)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer: {error}; ~optimizer.NAME leaves an option out") from error

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule."""
        optimizer = self.build_optimizer()
        self._options = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        if self.schedule == "constant":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._one_cycle(optimizer), "interval": "step"}}

    def _one_cycle(self, optimizer: Optimizer, n_done: int = 0) -> torch.optim.lr_scheduler.OneCycleLR:
        """The schedule of the stage's steps behind the first `n_done`."""
        n_steps = max(2, int(self.trainer.estimated_stepping_batches))
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [self.lr, self.lr * self.head_lr_factor],
            total_steps=n_steps,
            pct_start=_share_of_rise(n_steps),
            cycle_momentum=False,
            last_epoch=n_done - 1,
        )

    def on_train_start(self) -> None:
        """Take the optimizer's options and the schedule as they are configured now: a checkpoint brings its own."""
        if self.global_step == 0:
            return
        (optimizer,) = self.trainer.optimizers
        for group, options in zip(optimizer.param_groups, self._options, strict=True):
            group.update(options)
        for config in self.trainer.lr_scheduler_configs:
            self._one_cycle(optimizer)  # puts its ends into the groups, which the next one reads
            config.scheduler = self._one_cycle(optimizer, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the architecture into the checkpoint: `VideoHasher.load` needs nothing else. And whose state it has.

        Raises:
            UserError: if a weight is not finite, as after a step so long that it overflowed: the last checkpoint stays.
        """
        bad = [name for name, tensor in self.state_dict().items() if not tensor.isfinite().all()]
        if bad:
            raise UserError(
                f"{Path(self.trainer.default_root_dir).name}: {bad[0]} is not finite behind epoch "
                f"{self.current_epoch + 1}: lower the learning rate"
            )
        checkpoint["hasher_config"] = self.hasher.config
        checkpoint["n_people"] = self._n_people
        checkpoint["gradient_limit"] = self._limit.state_dict()
        checkpoint["optimizer"] = type(self.trainer.optimizers[0]).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this stage, and take the norms of the steps that were done.

        Raises:
            UserError: if it is of another optimizer, other people, or another model or loss.
        """
        if difference := self._difference(checkpoint):
            folder = Path(self.trainer.default_root_dir)
            raise UserError(
                f"Cannot resume from {folder / 'last.ckpt'}: {difference}. Delete it to train {folder.name} again, or "
                "restore what it was trained with."
            )
        if "gradient_limit" in checkpoint:
            self._limit.load_state_dict(checkpoint["gradient_limit"])

    def _difference(self, checkpoint: dict[str, Any]) -> str | None:
        """Say why this stage cannot continue with a checkpoint's state; None if it can."""
        name = type(self.build_optimizer()).__name__
        if (then := checkpoint.get("optimizer", name)) != name:
            return f"it was trained with {then}, not {name}"
        there, here = (
            {key: " x ".join(map(str, tensor.shape)) or "a number" for key, tensor in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        if there == here:
            return None
        if (before := checkpoint.get("n_people", self._n_people)) != self._n_people:
            return f"it was trained with {before} people, the data now has {self._n_people}"
        if changed := first_difference(checkpoint.get("hasher_config", {}), self.hasher.config):
            return f"it was trained with {changed}"
        key = next(key for key in [*here, *there] if there.get(key) != here.get(key))
        return f"its {key} is {there.get(key, 'absent')}, not {here.get(key, 'absent')}, as of another model or loss"

    @property
    def _n_people(self) -> int:
        data: FaceDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return len(data.faces.people)


def _share_of_rise(n_steps: int) -> float:
    """A tenth of the steps; but PyTorch's schedule divides by zero where that is exactly one step."""
    return 0.1 if n_steps != 10 else 0.3


def _behind(n: int, rows: Tensor) -> Tensor:
    """(N,) int64 for N rows: 0 for the first n, 1 for those behind them."""
    return (torch.arange(len(rows), device=rows.device) >= n).long()
