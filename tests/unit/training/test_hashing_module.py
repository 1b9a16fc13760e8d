import copy

import pytest
import pytorch_lightning as pl
import torch
from commands import run
from drawn_faces import make_folder
from torchvision.transforms import v2

from facereel.data import FaceDataset, Skipped, collate, load_faces, read_folder
from facereel.errors import UserError
from facereel.evaluation import ClosedSet
from facereel.evaluation.features import encode_features
from facereel.functional import spherical_transform
from facereel.losses import ClassificationLoss, TripletLoss
from facereel.models import SphericalAugment, VideoHasher
from facereel.training.data_module import BatchOptions, FaceDataModule, images_of
from facereel.training.hashing_module import HashingModule
from facereel.training.optimization import OptimizationOptions, rising_fraction

CONFIG = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling", "subtract_floor": True},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 12, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=4, n_clips=4)
    return load_faces(read_folder(root, Skipped()), Skipped(), size=32)


def data_module(faces, train_hash=True, val_fraction=0.2):
    return FaceDataModule(
        faces,
        ClosedSet(0.3, val_fraction).split(faces, 0),
        batch=BatchOptions(identities_per_batch=3, n_clips=2, n_stills=1, n_frames=2, batch_size=8),
        people=train_hash,
    )


def module(loss, train_hash=True, feature_augment=None, config=CONFIG, kind=HashingModule, **optimization):
    options = OptimizationOptions(**{"lr": 0.01, **optimization})
    return kind(VideoHasher(config), loss, options, train_hash=train_hash, feature_augment=feature_augment)


def test_outputs_contain_clips_then_stills_as_encoded_by_the_model(faces):
    batch = next(iter(data_module(faces).train_dataloader()))
    wired = module(TripletLoss(2.0)).eval()
    outputs = wired.outputs(batch)
    assert outputs.is_clip.tolist() == [True] * 6 + [False] * 3
    assert torch.equal(outputs.labels, torch.cat([batch.clip_labels, batch.still_labels]))
    assert len(outputs.features) == 3 + int(batch.mask.sum())
    _, clips = wired.hasher.encode_clips(batch.clips / 255, batch.mask, return_scores=True)
    _, stills = wired.hasher.encode_stills(batch.stills / 255, return_scores=True)
    assert torch.allclose(outputs.scores, torch.cat([clips, stills]), atol=1e-5)


def test_the_spherical_transform_adds_moved_samples(faces):
    batch = next(iter(data_module(faces).train_dataloader()))
    augment = SphericalAugment(4, 40, warm_up=0)
    outputs = module(TripletLoss(2.0), feature_augment=augment).outputs(batch)
    assert len(outputs.scores) == 2 * 9
    assert outputs.is_clip.sum() == 12
    assert augment.counts.sum() == 3 + batch.mask.sum()


def test_pretraining_can_move_images_between_proxies(faces):
    batch = next(iter(data_module(faces, train_hash=False).train_dataloader()))
    loss = ClassificationLoss(4, 40)
    augment = SphericalAugment(4, 40, means="proxies", warm_up=0, mean_gradient=True)
    outputs = module(loss, train_hash=False, feature_augment=augment).outputs(batch)
    assert len(outputs.features) == len(outputs.feature_labels) == 2 * 8
    sources, targets = outputs.feature_labels[:8], outputs.feature_labels[8:]
    expected = spherical_transform(outputs.features[:8], loss.proxies[sources], loss.proxies[targets])
    assert torch.allclose(outputs.features[8:], expected, atol=1e-5)


def test_means_from_proxies_need_a_loss_with_proxies():
    with pytest.raises(UserError, match="does not learn a feature vector"):
        module(TripletLoss(2.0), feature_augment=SphericalAugment(4, 40, means="proxies"))


def test_pretraining_uses_every_training_image_once_without_codes(faces):
    data = data_module(faces, train_hash=False)
    split = data.split
    rows = [item.row for item in data.items]
    expected = {row for clip in split.train.clips for row in clip.rows} | {still.row for still in split.train.stills}
    assert sorted(rows) == sorted(expected)
    held_back = {row for part in (split.val, split.test) for clip in part.clips for row in clip.rows}
    held_back |= {still.row for part in (split.val, split.test) for still in part.stills}
    assert not held_back & set(rows)
    outputs = module(ClassificationLoss(4, 40), train_hash=False).outputs(next(iter(data.train_dataloader())))
    assert len(outputs.features) == 8
    assert len(outputs.scores) == 0


@pytest.mark.parametrize("train_hash", [True, False])
def test_several_processes_share_the_batches_of_one(faces, monkeypatch, train_hash):
    """As three processes would see it; two real ones are in test_ddp.py."""
    data = data_module(faces, train_hash)
    batches = list(data.train_dataloader().batch_sampler)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None, rank=rank: rank)
        shares.append(list(data.train_dataloader().batch_sampler))
    assert [sorted(i for part in parts for i in part) for parts in zip(*shares, strict=True)] == [
        sorted(batch) for batch in batches
    ]
    assert {len(part) for parts in shares for part in parts} == ({3} if train_hash else {2, 3})


def test_batch_too_small_to_share_raises(faces, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: 0)
    with pytest.raises(UserError, match="4 processes cannot share a batch of 3 clips or stills"):
        data_module(faces).train_dataloader()


def test_processes_share_val_and_an_idle_one_repeats_a_batch(faces, monkeypatch):
    data = data_module(faces)
    n_items = len(data.val_items)
    monkeypatch.setattr("facereel.training.data_module._N_VAL", 8)
    n_batches = -(-n_items // 8)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for world_size in (2, n_batches + 1):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None, n=world_size: n)
        seen = []
        for rank in range(world_size):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None, rank=rank: rank)
            assert len(data.val_dataloader()) > 0
            seen += [i for batch in data.val_batches() for i in batch]
        assert set(seen) == set(range(n_items))
        assert len(seen) - n_items == (0 if world_size == 2 else 8)


def test_frames_used_as_stills_are_pretrained_on_once(tmp_path):
    root = make_folder(tmp_path, n_people=2, n_stills=0)
    faces = load_faces(read_folder(root, Skipped()), Skipped(), size=8)
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    assert split.train.stills
    items = images_of(faces, split)
    assert len({item.key for item in items}) == len(items) == sum(len(clip.rows) for clip in split.train.clips)


def test_step_trains_trunk_and_head_at_separate_rates(faces):
    wired = module(TripletLoss(2.0), head_lr_multiplier=10.0)
    optimizer = wired.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    grouped = sum(len(group["params"]) for group in optimizer.param_groups)
    assert grouped == len(list(wired.parameters()))
    before = copy.deepcopy(wired.hasher.state_dict())
    wired.outputs(next(iter(data_module(faces).train_dataloader()))).scores.sum().backward()
    optimizer.step()
    changed = [name for name, value in wired.hasher.state_dict().items() if not torch.equal(value, before[name])]
    for part in ("encoder.layers.0.weight", "head.still.1.weight", "head.clip.1.weight"):
        assert part in changed


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norms_keep_their_statistics(faces, frozen):
    wired = module(TripletLoss(2.0), freeze_batch_norm=frozen)
    wired.on_fit_start()
    before = wired.hasher.encoder.layers[1].running_mean.clone()
    wired.outputs(next(iter(data_module(faces).train_dataloader())))
    assert torch.equal(wired.hasher.encoder.layers[1].running_mean, before) is frozen
    assert wired.hasher.head.training


def test_val_items_are_queries_and_gallery_without_duplicates(faces):
    data = data_module(faces)
    split = data.split
    clips, stills = [*split.val.clips, *split.train.clips], [*split.val.stills, *split.train.stills]
    assert data.val_items == [*clips, *stills]
    assert sum(len(batch.clips) + len(batch.stills) for batch in data.val_dataloader()) == len(data.val_items)
    split.searches_train = False
    assert FaceDataModule(faces, split, batch=data.batch).val_items == [*split.val.clips, *split.val.stills]


def test_loss_decreases_on_a_repeated_batch(faces):
    torch.manual_seed(1)
    # At 0.01 rounding decides how far it falls.
    wired = module(TripletLoss(4.0), head_lr_multiplier=10.0, lr=0.003)
    optimizer = wired.configure_optimizers()
    batch = next(iter(data_module(faces).train_dataloader()))
    losses = []
    for _ in range(30):
        loss = wired.loss(wired.outputs(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_bf16_autocast_keeps_codes_in_float32(faces):
    batch = next(iter(data_module(faces).train_dataloader()))
    wired = module(TripletLoss(4.0))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = wired.outputs(batch)
        wired.loss(outputs).backward()
    assert outputs.scores.dtype == torch.float32
    gradients = [p.grad for p in wired.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize("train_hash", [True, False])
def test_lightning_draws_new_batches_per_epoch_and_keeps_frozen_statistics(faces, tmp_path, train_hash, reload):
    """Also a trainer that keeps one loader, as a plain one does."""
    seen = []

    class Recording(HashingModule):
        def training_step(self, batch, batch_idx):
            seen.append((self.current_epoch, batch.clips.sum().item(), batch.stills.sum().item()))
            return super().training_step(batch, batch_idx)

    options = {"kind": Recording, "optimizer": torch.optim.SGD, "lr": 1e-4, "freeze_batch_norm": True}
    wired = module(TripletLoss(2.0) if train_hash else ClassificationLoss(4, 40), train_hash, **options)
    before = wired.hasher.encoder.layers[1].running_mean.clone()
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=3,
        accelerator="cpu",
        reload_dataloaders_every_n_epochs=reload,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(wired, datamodule=data_module(faces, train_hash))
    epochs = [[batch[1:] for batch in seen if batch[0] == epoch] for epoch in range(3)]
    assert all(epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert torch.equal(wired.hasher.encoder.layers[1].running_mean, before)


@pytest.mark.parametrize("n_steps", [2, 10, 11, 100])
def test_one_cycle_accepts_any_number_of_steps(n_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=n_steps, pct_start=rising_fraction(n_steps), cycle_momentum=False
    )
    assert 0 < optimizer.param_groups[0]["lr"] < 1.0


def test_val_without_a_match_does_not_choose_a_checkpoint(faces):
    data = data_module(faces)
    assert data.has_val
    data.split.val.clips[:] = data.split.val.clips[:1]
    data.split.val.stills.clear()
    data.split.searches_train = False
    assert not data.has_val


def test_batches_of_stills_only_can_be_trained_on(faces):
    data = data_module(faces)
    stills = [i for i, item in enumerate(data.items) if hasattr(item, "row")][:4]
    dataset = data.train_dataloader().dataset
    outputs = module(TripletLoss(2.0)).outputs(collate([dataset[i] for i in stills]))
    assert outputs.scores.shape == (4, 12)


@pytest.mark.parametrize("people", [True, False])
def test_frozen_stage_gives_the_same_outputs_as_on_images(faces, people):
    data = data_module(faces, train_hash=people)
    wired = module(TripletLoss(2.0)).eval()
    held = faces.with_features(encode_features(wired.hasher, faces, range(len(faces.rows))))
    frozen = module(TripletLoss(2.0), freeze_encoder=True).eval()
    frozen.hasher.load_state_dict(wired.hasher.state_dict())
    chosen = next(iter(data.sampler)) if people else list(range(0, len(data.items), 3))
    on_images, on_features = (collate([FaceDataset(source, data.items)[i] for i in chosen]) for source in (faces, held))
    expected, found = wired.outputs(on_images), frozen.outputs(on_features)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.is_clip, expected.is_clip)
    assert torch.equal(found.feature_labels, expected.feature_labels)
    assert torch.allclose(found.features, expected.features, atol=1e-4)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)


def test_a_frozen_encoder_is_not_optimized(faces):
    wired = module(TripletLoss(2.0), freeze_encoder=True, head_lr_multiplier=10.0)
    optimizer = wired.configure_optimizers()
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in wired.parameters()} - {id(p) for p in wired.hasher.encoder.parameters()}
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]


@pytest.mark.parametrize("augmented", [False, True])
def test_codes_are_trained_on_single_images(faces, augmented):
    config = {
        **CONFIG,
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.SharedHead", "n_bits": 12, "dropout": 0.0},
    }
    augment = SphericalAugment(4, 40, warm_up=0) if augmented else None
    wired = module(TripletLoss(2.0), feature_augment=augment, config=config)
    data = data_module(faces, train_hash=False)
    batch = next(iter(data.train_dataloader()))
    assert len(batch.clips) == 0
    outputs = wired.outputs(batch)
    assert len(outputs.scores) == len(outputs.labels) == len(outputs.is_clip) == (16 if augmented else 8)
    assert not outputs.is_clip.any()
    assert torch.equal(outputs.labels[:8], batch.still_labels)
    assert augment is None or augment.counts.sum() == 8
    wired.loss(outputs).backward()
    assert wired.hasher.head.both[1].weight.grad.abs().sum() > 0


def test_every_step_and_process_draws_its_own_augmentation(faces, monkeypatch):
    """From seed, epoch, batch and process alone: what else draws from the global generator has no effect."""
    wired = module(ClassificationLoss(4, 40), train_hash=False)
    wired.image_augment = v2.ColorJitter(0.5)
    stills = torch.full((8, 3, 32, 32), 100, dtype=torch.uint8)
    batch = collate([(still[None], 0, False) for still in stills])
    real, seen = wired.outputs, []
    wired.outputs = lambda batch, draws: seen.append(batch.stills[:, 0, 0, 0].tolist()) or real(batch, draws)
    wired.log = lambda *arguments, **options: None
    places = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0)]
    for epoch, batch_idx, process in places:
        monkeypatch.setattr(HashingModule, "current_epoch", epoch)
        monkeypatch.setattr("facereel.training.hashing_module.rank", lambda process=process: process)
        state = torch.get_rng_state()
        wired.training_step(batch, batch_idx)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
    assert len({tuple(values) for values in seen[:-1]}) == len(places) - 1
    assert seen[-1] == seen[0]
    assert len(set(seen[0])) > 4  # each still has its own
    assert stills.eq(100).all()


def test_defaults_train_with_a_plain_trainer(tmp_path):
    """From the folder of a prepared data set, with a protocol by its name."""
    root = make_folder(tmp_path / "faces", n_people=20, n_clips=2)
    assert run("prepare", "folder", root, tmp_path / "prepared", "--detector", "none", "--size", "32") == 0
    data = FaceDataModule(tmp_path / "prepared", protocol="identity_disjoint")
    hasher = VideoHasher(CONFIG)
    before = copy.deepcopy(hasher.state_dict())
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False)
    trainer.fit(HashingModule(hasher, TripletLoss(2.0)), datamodule=data)
    assert trainer.global_step > 0
    assert 0 <= trainer.callback_metrics["val/mAP"] <= 1
    assert not torch.equal(hasher.encoder.layers[0].weight, before["encoder.layers.0.weight"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert VideoHasher.load(checkpoint).n_bits == 12


def test_protocol_without_a_training_part_raises(faces):
    with pytest.raises(ValueError, match="protocol=leave_one_out: must be one of closed_set, identity_disjoint"):
        FaceDataModule(faces, "leave_one_out")
