import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import spherical_transform, translation_transform
from facereel.models import (
    AttentionPooling,
    LabeledFeatures,
    LogCovariancePooling,
    MeanLogCovariancePooling,
    MeanPooling,
    SphericalAugment,
    WholeBatch,
)


@pytest.fixture
def batch():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    frames = torch.randn(2, 3, 6).masked_fill(~mask[..., None], 0.0)
    return LabeledFeatures(torch.randn(4, 6), torch.tensor([0, 0, 2, 3]), frames, mask, torch.tensor([0, 2]))


def flat(batch) -> tuple[Tensor, Tensor]:
    """Features of stills and real frames, and whose they are."""
    labels = batch.clip_labels[:, None].expand_as(batch.mask)[batch.mask]
    return torch.cat([batch.stills, batch.frames[batch.mask]]), torch.cat([batch.still_labels, labels])


def unit_features(batch, person):
    own = [normalize(x, dim=0) for x, y in zip(batch.stills, batch.still_labels, strict=True) if y == person]
    for clip, real, y in zip(batch.frames, batch.mask, batch.clip_labels, strict=True):
        own += [normalize(x, dim=0) for x in clip[real]] if y == person else []
    return torch.stack(own)


def test_means_are_running_means_of_unit_features(batch):
    augment = SphericalAugment(n_people=5, dim=6, momentum=0.75)
    expected = torch.zeros(5, 6)
    for step in range(3):
        # Person 3 is absent in the second step and keeps its mean.
        labels = torch.tensor([0, 0, 2, 0 if step == 1 else 3])
        current = LabeledFeatures(batch.stills + step, labels, *batch[2:])
        augment.update(*flat(current))
        for person in (0, 2) if step == 1 else (0, 2, 3):
            fresh = unit_features(current, person).mean(dim=0)
            expected[person] = fresh if step == 0 else 0.75 * expected[person] + 0.25 * fresh
    assert torch.allclose(augment.means, expected, atol=1e-6)
    assert augment.counts.tolist() == [13, 0, 12, 2, 0]


@pytest.mark.parametrize("transform", ["rotation", "translation"])
def test_copies_are_moved_to_another_person_of_the_batch(batch, transform):
    augment = SphericalAugment(5, 6, transform=transform, warm_up=0)
    pooling = LogCovariancePooling(6)
    result = augment(batch, pooling)
    assert torch.equal(result.stills[:4], batch.stills)
    assert torch.allclose(result.pooled[:2], pooling(batch.frames, batch.mask))
    assert len(result.stills) == len(result.still_labels) == 8
    assert len(result.pooled) == len(result.clip_labels) == 4

    def moved(x, source, target):
        if transform == "rotation":
            return spherical_transform(x, augment.means[source], augment.means[target])
        length = x.norm(dim=-1, keepdim=True)
        return length * translation_transform(normalize(x, dim=-1), augment.means[source], augment.means[target])

    for i, (source, target) in enumerate(zip(batch.still_labels, result.still_labels[4:], strict=True)):
        assert source != target
        assert target in (0, 2, 3)
        assert torch.allclose(result.stills[4 + i], moved(batch.stills[i], source, target), atol=1e-5)
    for i, (source, target) in enumerate(zip(batch.clip_labels, result.clip_labels[2:], strict=True)):
        assert source != target
        frames = moved(batch.frames[i], source, target)[None]
        assert torch.allclose(result.pooled[2 + i], pooling(frames, batch.mask[i : i + 1])[0], atol=1e-4)


@pytest.mark.parametrize("pooling", [LogCovariancePooling(6), MeanLogCovariancePooling(6), MeanPooling(6)])
def test_clips_moved_after_pooling_are_the_same(batch, pooling):
    results = []
    for clips in ("frames", "pooled"):
        torch.manual_seed(3)
        results.append(SphericalAugment(5, 6, clips=clips, warm_up=0)(batch, pooling))
    assert torch.allclose(results[0].pooled, results[1].pooled, atol=1e-4)
    assert torch.equal(results[0].clip_labels, results[1].clip_labels)
    assert len(results[0].pooled) == 4


def test_nobody_is_moved_to_an_unseen_person(batch):
    """Person 1 and 4 never appear, 3 only in the first batch."""
    augment = SphericalAugment(5, 6, targets="seen", warm_up=0)
    targets = set(augment(batch, MeanPooling(6)).still_labels[4:].tolist())
    later = LabeledFeatures(batch.stills, torch.tensor([0, 0, 2, 2]), *batch[2:])
    for _ in range(50):
        targets |= set(augment(later, MeanPooling(6)).still_labels[4:].tolist())
    assert targets == {0, 2, 3}
    batch_only = SphericalAugment(5, 6, warm_up=0)
    batch_only.update(*flat(batch))
    for _ in range(50):
        assert set(batch_only(later, MeanPooling(6)).still_labels[4:].tolist()) <= {0, 2}


def test_a_batch_of_one_person_has_no_target(batch: LabeledFeatures):
    alone = LabeledFeatures(batch.stills, torch.zeros(4, dtype=torch.int64), *batch[2:4], torch.tensor([0, 0]))
    result = SphericalAugment(5, 6, warm_up=0)(alone, MeanPooling(6))
    assert len(result.stills) == 4
    assert len(result.pooled) == 2


def test_warms_up_and_then_ramps_up(batch: LabeledFeatures):
    augment = SphericalAugment(5, 6, warm_up=2)
    assert [len(augment(batch, MeanPooling(6)).stills) for _ in range(4)] == [4, 4, 8, 8]
    slow = SphericalAugment(5, 6, warm_up=2, ramp_up=4, probability=0.8)
    chances = []
    for _ in range(8):
        slow.update(*flat(batch))
        chances.append(slow.chance)
    assert chances == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    many = LabeledFeatures(torch.randn(2000, 6), torch.randint(4, (2000,)), *batch[2:])
    assert len(slow(many, MeanPooling(6)).stills) - 2000 == pytest.approx(1600, abs=100)


def test_gradients_flow_through_features_and_optionally_through_means(batch):
    grads = {}
    for mean_gradient in (False, True):
        torch.manual_seed(5)
        augment = SphericalAugment(5, 6, warm_up=0, mean_gradient=mean_gradient)
        frames = batch.frames.clone().requires_grad_()
        result = augment(batch._replace(frames=frames), MeanPooling(6))
        (result.stills[4:].sum() + 0 * frames.sum()).backward()
        grads[mean_gradient] = frames.grad
        assert not augment.means.requires_grad
        stills = batch.stills.clone().requires_grad_()
        augment(LabeledFeatures(stills, *batch[1:]), MeanPooling(6)).stills[4:].sum().backward()
        assert (stills.grad.abs().sum(dim=1) > 0).all()
    # Moved stills see the frames only through the means.
    assert not grads[False].any()
    assert (grads[True][batch.mask].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("mean_gradient", [False, True])
def test_proxies_of_the_loss_are_used_as_means(batch, mean_gradient):
    augment = SphericalAugment(5, 6, means="proxies", warm_up=0, mean_gradient=mean_gradient)
    proxies = torch.randn(5, 6, requires_grad=True)
    stills = batch.stills.clone().requires_grad_()
    result = augment(LabeledFeatures(stills, *batch[1:]), MeanPooling(6), proxies)
    targets = result.still_labels[4:]
    assert set(targets.tolist()) <= {0, 2, 3}
    expected = spherical_transform(batch.stills, proxies[batch.still_labels], proxies[targets])
    assert torch.allclose(result.stills[4:], expected, atol=1e-5)
    result.stills[4:].sum().backward()
    assert (proxies.grad is not None) == mean_gradient


def test_nonfinite_features_and_padding_do_not_enter_the_means(batch):
    augment = SphericalAugment(5, 6, warm_up=0, mean_gradient=True, transform="translation")
    stills, frames = batch.stills.clone(), batch.frames.masked_fill(~batch.mask[..., None], torch.nan)
    stills[3] = torch.inf
    frames.requires_grad_()
    result = augment(LabeledFeatures(stills, batch.still_labels, frames, *batch[3:]), MeanPooling(6))
    assert augment.means.isfinite().all()
    assert augment.counts.tolist() == [4, 0, 4, 0, 0]
    assert set(result.still_labels[4:].tolist()) <= {0, 2}
    result.pooled.sum().backward()
    assert frames.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_accepts_features_of_other_precisions(batch, dtype):
    same = LabeledFeatures(batch.stills.to(dtype), batch.still_labels, batch.frames.to(dtype), *batch[3:])
    for augment in (SphericalAugment(5, 6, warm_up=0), SphericalAugment(5, 6, warm_up=0).to(dtype)):
        assert len(augment(same, MeanPooling(6)).stills) == 8


def test_means_are_saved_with_the_state():
    assert set(SphericalAugment(3, 4).state_dict()) == {"means", "counts", "n_updates"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"transform": "shear"},
        {"means": "median"},
        {"targets": "all"},
        {"clips": "codes"},
        {"momentum": 1.5},
        {"probability": -0.1},
        {"warm_up": -1},
        {"ramp_up": -1},
        {"transform": "translation", "clips": "pooled"},
    ],
)
def test_wrong_options_raise(arguments):
    with pytest.raises(UserError, match=r"must be|needs transform=rotation"):
        SphericalAugment(3, 4, **arguments)


def test_options_that_do_not_fit_the_model_or_the_loss_raise():
    with pytest.raises(UserError, match=r"AttentionPooling does not commute"):
        SphericalAugment(3, 4, clips="pooled").check(AttentionPooling(4), None)
    for proxies in (None, torch.zeros(3, 5)):
        with pytest.raises(UserError, match="does not learn a feature vector"):
            SphericalAugment(3, 4, means="proxies").check(MeanPooling(4), proxies)


@pytest.mark.parametrize("clips", ["frames", "pooled"])
def test_several_processes_draw_the_same_as_one(batch, clips):
    pooling = LogCovariancePooling(6)
    options = {"warm_up": 0, "probability": 0.6, "clips": clips}
    for seed in range(5):
        one = SphericalAugment(5, 6, **options)
        expected = one(batch, pooling, draws=torch.Generator().manual_seed(seed))
        stills, clip_rows = [], []
        for still_rows, own_clips in (([0, 2], [0]), ([1, 3], [1])):
            own = [torch.zeros(n, dtype=torch.bool).index_fill(0, torch.tensor(rows), True) for n, rows in
                   ((4, still_rows), (2, own_clips))]  # fmt: skip
            part = LabeledFeatures(*(kind[rows] for kind, rows in zip(batch, [own[0]] * 2 + [own[1]] * 3, strict=True)))
            whole = WholeBatch(*flat(batch), batch.still_labels, batch.clip_labels, *own)
            augment = SphericalAugment(5, 6, **options)
            found = augment(part, pooling, whole=whole, draws=torch.Generator().manual_seed(seed))
            assert torch.allclose(augment.means, one.means, atol=1e-6)
            n, m = len(still_rows), len(own_clips)
            stills += zip(found.stills[n:].tolist(), found.still_labels[n:].tolist(), strict=True)
            clip_rows += zip(found.pooled[m:], found.clip_labels[m:].tolist(), strict=True)
        wanted = zip(expected.stills[4:].tolist(), expected.still_labels[4:].tolist(), strict=True)
        # Another number of rows may be rounded otherwise.
        for (row, label), (its_row, its_label) in zip(sorted(stills), sorted(wanted), strict=True):
            assert (row, label) == (pytest.approx(its_row, abs=1e-6), its_label)
        assert [label for _, label in clip_rows] == expected.clip_labels[2:].tolist()
        for (row, _), other in zip(clip_rows, expected.pooled[2:], strict=True):
            assert torch.allclose(row, other, atol=1e-5)
