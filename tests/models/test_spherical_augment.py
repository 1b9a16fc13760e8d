import pytest
import torch
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import spherical_transform, translation_transform
from facereel.models import LabelledFeatures, SphericalAugment


@pytest.fixture
def batch():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    frames = torch.randn(2, 3, 6).masked_fill(~mask[..., None], 0.0)
    return LabelledFeatures(torch.randn(4, 6), torch.tensor([0, 0, 2, 3]), frames, mask, torch.tensor([0, 2]))


def test_means_are_running_means_of_unit_features(batch):
    augment = SphericalAugment(n_people=5, dim=6, momentum=0.75)
    expected = torch.zeros(5, 6)
    for step in range(3):
        current = LabelledFeatures(batch.stills + step, *batch[1:])
        augment.update(current)
        for person in (0, 2, 3):
            own = [
                normalize(x, dim=0) for x, y in zip(current.stills, current.still_labels, strict=True) if y == person
            ]
            for clip, real, y in zip(current.frames, current.mask, current.clip_labels, strict=True):
                own += [normalize(x, dim=0) for x in clip[real]] if y == person else []
            fresh = torch.stack(own).mean(dim=0)
            expected[person] = fresh if step == 0 else 0.75 * expected[person] + 0.25 * fresh
    assert torch.allclose(augment.means, expected, atol=1e-6)
    assert augment.counts.tolist() == [12, 0, 12, 3, 0]


@pytest.mark.parametrize("transform", ["rotation", "translation"])
def test_copies_are_moved_to_another_person_of_the_batch(batch, transform):
    augment = SphericalAugment(5, 6, transform=transform, warm_up=0)
    result = augment(batch)
    assert torch.equal(result.stills[:4], batch.stills)
    assert torch.equal(result.frames[:2], batch.frames)
    assert len(result.stills) == 8
    assert len(result.frames) == 4
    sources, targets = batch.still_labels, result.still_labels[4:]
    assert (sources != targets).all()
    assert set(targets.tolist()) <= {0, 2, 3}
    for i in range(4):
        source, target = augment.means[sources[i]], augment.means[targets[i]]
        if transform == "rotation":
            expected = spherical_transform(batch.stills[i], source, target)
        else:
            length = batch.stills[i].norm()
            expected = length * translation_transform(batch.stills[i] / length, source, target)
        assert torch.allclose(result.stills[4 + i], expected, atol=1e-5)
    assert (result.frames[2][~result.mask[2]] == 0).all()
    moved = spherical_transform(batch.frames[1], augment.means[2], augment.means[result.clip_labels[3]])
    if transform == "rotation":
        assert torch.allclose(result.frames[3], moved, atol=1e-5)


def test_waits_for_the_means_to_settle(batch):
    augment = SphericalAugment(5, 6, warm_up=2)
    assert [len(augment(batch).stills) for _ in range(4)] == [4, 4, 8, 8]


def test_gradients_flow_through_features_but_not_through_means(batch):
    augment = SphericalAugment(5, 6, warm_up=0)
    stills = batch.stills.clone().requires_grad_()
    augment(LabelledFeatures(stills, *batch[1:])).stills[4:].sum().backward()
    assert (stills.grad.abs().sum(dim=1) > 0).all()
    assert not augment.means.requires_grad


def test_means_are_saved_with_the_state():
    assert set(SphericalAugment(3, 4).state_dict()) == {"means", "counts", "n_updates"}


@pytest.mark.parametrize("arguments", [{"transform": "shear"}, {"momentum": 1.5}])
def test_wrong_options_are_refused(arguments):
    with pytest.raises(UserError, match=r"augment\.features"):
        SphericalAugment(3, 4, **arguments)
