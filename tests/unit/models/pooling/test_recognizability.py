"""What is particular to the pooling by recognizability; test_pooling.py has what all poolings share."""

import pytest
import torch

from facereel.models import MeanPooling, RecognizabilityPooling, recognizability

CENTER = torch.tensor([0.0, 0.0, 1.0])


def pooling_at_center(length_p=0.0, **options):
    pooling = RecognizabilityPooling(3, length_p=length_p, **options)
    pooling.set_center(5 * CENTER[None])
    return pooling


def test_recognizability_is_0_at_the_center_and_1_opposite_to_it():
    features = torch.stack([3 * CENTER, torch.tensor([0.0, 2.0, 0.0]), -CENTER, torch.tensor([0.0, 3.0, 3.0])])
    expected = torch.tensor([0.0, 0.5, 1.0, (1 - 0.5**0.5) / 2])
    assert torch.allclose(recognizability(features, CENTER), expected)
    assert torch.allclose(recognizability(features[None], 7 * CENTER), expected[None])
    assert torch.equal(recognizability(features, torch.zeros(3)), torch.full((4,), 0.5))


def test_rounding_never_leaves_0_to_1():
    center = torch.randn(128, generator=torch.Generator().manual_seed(0))
    for sign in (-1, 1):
        assert 0 <= recognizability(sign * center, center) <= 1


def test_a_frame_at_the_center_does_not_count():
    frames = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    assert torch.allclose(pooling_at_center()(frames), frames[:, 0], atol=1e-6)


def test_weights_are_powers_of_the_distance_from_the_center():
    """Frames at 60 and 180 degrees from the center: 1 - cos is 1/2 and 2."""
    frames = torch.tensor([[[0.75**0.5, 0.0, 0.5], [0.0, 0.0, -1.0]]])
    weights = torch.tensor([[0.5**2, 2**2]]) / (0.5**2 + 2**2)
    assert torch.allclose(pooling_at_center(p=2.0)(frames), (weights[..., None] * frames).sum(dim=1))


@pytest.mark.parametrize("p", [1.0, 3.0, 40.0])
def test_frames_that_are_all_at_the_center_give_their_mean(p):
    generator = torch.Generator().manual_seed(0)
    frames = CENTER + 1e-4 * torch.randn(2, 4, 3, generator=generator)
    mask = torch.tensor([[True, True, True, False], [False, True, False, False]])
    frames.requires_grad_()
    pooled = pooling_at_center(p=p)(frames, mask)
    assert torch.allclose(pooled, MeanPooling(3, unit_frames=True)(frames, mask), atol=1e-6)
    pooled.sum().backward()
    assert frames.grad.isfinite().all()


def test_weights_far_below_the_smallest_float_do_not_vanish():
    """At a distance of 1e-4 the 20th power underflows in float32."""
    frames = CENTER + torch.tensor([[[0.014, 0.0, 0.0], [0.02, 0.0, 0.0]]])
    pooled = pooling_at_center(p=20.0)(frames)
    assert pooled.norm() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(pooled, torch.nn.functional.normalize(frames[:, 1], dim=1), atol=1e-4)


def test_without_a_center_and_lengths_it_is_the_mean():
    frames = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(RecognizabilityPooling(3, length_p=0.0)(frames), MeanPooling(3, unit_frames=True)(frames))


def test_a_frame_of_twice_the_length_counts_as_a_power_of_two():
    frames = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    expected = torch.tensor([[8.0, 1.0, 0.0]]) / 9
    assert torch.allclose(pooling_at_center(length_p=3.0)(frames), expected)
    assert torch.allclose(pooling_at_center(length_p=3.0)(1000 * frames), expected)
    assert torch.allclose(
        pooling_at_center(length_p=3.0, unit_frames=False)(frames), expected * torch.tensor([2, 1, 1])
    )
    assert torch.allclose(pooling_at_center()(frames), torch.tensor([[0.5, 0.5, 0.0]]))


def test_frames_of_length_zero_give_zeros_and_a_finite_gradient():
    frames = torch.zeros(1, 3, 3, requires_grad=True)
    pooled = pooling_at_center(length_p=3.0)(frames)
    pooled.sum().backward()
    assert torch.equal(pooled, torch.zeros(1, 3))
    assert frames.grad.isfinite().all()


def test_weights_sum_to_one_over_real_frames():
    frames = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False], [False, False, False, False]])
    weights = pooling_at_center(length_p=3.0).weights(frames, mask)
    assert torch.allclose(weights.sum(dim=1), torch.tensor([1.0, 0.0]))
    assert (weights[~mask] == 0).all()
    assert (weights[0, :3] > 0).all()


def test_center_is_the_direction_of_the_mean_of_unit_features_and_saved():
    pooling = RecognizabilityPooling(3)
    pooling.set_center(torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
    assert torch.allclose(pooling.center, torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))
    other = RecognizabilityPooling(3)
    other.load_state_dict(pooling.state_dict())
    assert torch.equal(other.center, pooling.center)
    assert not [*pooling.parameters()]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), r"\(N, 3\)"),
        (torch.ones(2, 4), r"\(N, 3\)"),
        (torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), "zero"),
        (torch.full((2, 3), torch.nan), "not finite"),
        (torch.zeros(0, 3), "not finite"),
    ],
)
def test_wrong_features_of_the_center_raise(features, message):
    with pytest.raises(ValueError, match=message):
        RecognizabilityPooling(3).set_center(features)


def test_photos_below_the_limit_are_too_poor():
    photos = torch.stack([CENTER, torch.tensor([0.0, 1.0, 0.0]), -CENTER])
    assert pooling_at_center(photo_limit=0.5).is_too_poor(photos).tolist() == [True, False, False]
    assert not pooling_at_center().is_too_poor(photos).any()
    assert pooling_at_center(photo_limit=0.5).is_too_poor(photos[0]).item()
