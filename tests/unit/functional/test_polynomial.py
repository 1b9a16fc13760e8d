"""The route without eigendecompositions against the others, whose own tests compare them with the definition."""

from typing import Any

import pytest
import torch

from facereel.functional import log_covariance

SCALE_FREE: dict[str, Any] = {"normalize": True, "unit_frames": True}


def pooled_and_gradient(frames, mask=None, **options):
    frames = frames.clone().requires_grad_()
    pooled = log_covariance(frames, mask, **SCALE_FREE, **options)
    weight = torch.randn(pooled.shape[1:], generator=torch.Generator().manual_seed(0)).to(frames.dtype)
    (pooled * weight).sum().backward()
    return pooled.detach().double(), frames.grad.double()


def relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("eps", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 9, 5), (2, 40, 64)])
@pytest.mark.parametrize("length", [None, 30.0])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_equals_the_eigendecomposition(eps, shape, length, center, dtype, tolerance):
    frames = 10 * torch.randn(shape) + 5
    mask = torch.ones(shape[:2], dtype=torch.bool)
    mask[0, 1::2] = False
    options = {"mask": mask, "eps": eps, "length": length, "center": center}
    pooled, grad = pooled_and_gradient(frames.to(dtype), method="polynomial", **options)
    expected, expected_grad = pooled_and_gradient(frames.double(), method="gram", **options)
    assert torch.equal(pooled, pooled.mT)
    assert relative(pooled, expected) < tolerance
    assert relative(grad, expected_grad) < tolerance


@pytest.mark.parametrize("clip", ["static", "near_copies", "one_frame", "equal_singular_values"])
def test_float32_gradient_of_clips_where_the_supplement_divides_by_zero(clip):
    x = torch.randn(1, 1, 7)
    frames = {
        "static": x.expand(1, 4, 7),
        "near_copies": x + 1e-4 * torch.randn(1, 4, 7),
        "one_frame": x,
        "equal_singular_values": torch.eye(4, 7)[None],
    }[clip]
    _, grad = pooled_and_gradient(frames, eps=0.1, length=30.0, method="polynomial")
    _, expected = pooled_and_gradient(frames.double(), eps=0.1, length=30.0, method="gram")
    assert relative(grad, expected) < 1e-4


@pytest.mark.parametrize("length", [None, 30.0])
def test_gradcheck(length):
    frames = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    options = {**SCALE_FREE, "eps": 0.1, "length": length, "method": "polynomial"}
    assert torch.autograd.gradcheck(lambda x: log_covariance(x, **options), frames)


def test_clips_without_a_real_frame_and_with_an_infinite_feature():
    frames, mask = torch.randn(3, 4, 6), torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    frames[2, 0, 0] = torch.inf
    pooled, grad = pooled_and_gradient(frames, mask, eps=0.1, length=30.0, method="polynomial")
    assert not pooled[1].any()
    assert not grad[1].any()
    assert pooled[2].isnan().all()
    expected, expected_grad = pooled_and_gradient(frames[:1], eps=0.1, length=30.0, method="gram")
    assert torch.allclose(pooled[:1], expected, atol=1e-4)
    assert torch.allclose(grad[:1], expected_grad, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"normalize": False}, {"unit_frames": False}, {"eps": 0.001}])
def test_says_what_it_needs(wrong):
    options = {**SCALE_FREE, "eps": 0.1, "method": "polynomial", **wrong}
    with pytest.raises(ValueError, match="method 'polynomial' needs normalize=True, unit_frames=True and eps of at"):
        log_covariance(torch.randn(1, 3, 4), **options)
