import math

import pytest
import torch

from facereel.functional import log_covariance, spherical_transform

METHODS = ("gram", "eigh", "supplement")
# Relative error that a result may have against float64, per dtype of the input.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def reference(frames, mask=None, *, eps=1e-3, center=False, normalize=False):
    """The definition, clip by clip in float64: log of the n x n matrix by its eigenvalues."""
    pooled = []
    for b in range(len(frames)):
        rows = frames[b].double() if mask is None else frames[b].double()[mask[b]]
        if center and len(rows):
            rows = rows - rows.mean(dim=0)
        second_moment = rows.T @ rows
        if normalize and len(rows):
            second_moment = second_moment / len(rows)
        values, vectors = torch.linalg.eigh(second_moment + eps * torch.eye(frames.shape[2], dtype=torch.float64))
        pooled.append(vectors @ torch.diag(values.log()) @ vectors.T)
    return torch.stack(pooled)


def finite_difference(frames, direction, weight, step=1e-6, **options):
    """Central difference of sum(weight * Y) along a direction, Y by the reference."""
    up, down = reference(frames + step * direction, **options), reference(frames - step * direction, **options)
    return float(((up - down) * weight).sum() / (2 * step))


def gradient(frames, weight, **options):
    frames = frames.clone().requires_grad_()
    (log_covariance(frames, **options) * weight).sum().backward()
    return frames.grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_definition(method, center, normalize, dtype):
    frames = torch.randn(3, 5, 9, dtype=dtype)
    options = {"eps": 1e-3, "center": center, "normalize": normalize}
    pooled = log_covariance(frames, method=method, **options)
    expected = reference(frames, **options)
    assert pooled.shape == (3, 9, 9)
    assert pooled.dtype == dtype
    assert (pooled - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("n_frames", [1, 4, 9, 14])
def test_auto_takes_any_number_of_frames(n_frames):
    frames = torch.randn(2, n_frames, 6, dtype=torch.float64)
    assert torch.allclose(log_covariance(frames), reference(frames), atol=1e-9)


@pytest.mark.parametrize("method", ["gram", "eigh"])
def test_masked_clips_equal_the_clips_without_their_padding(method):
    frames = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False, True, False, True, True, False]])
    garbage = frames.masked_fill(~mask[..., None], math.nan)
    for options in ({}, {"center": True}, {"normalize": True}, {"center": True, "normalize": True}):
        pooled = log_covariance(garbage, mask, method=method, **options)
        assert torch.allclose(pooled, reference(frames, mask, **options), atol=1e-9)


# A centred clip has a singular value of zero, which the supplement's form divides by: no row for it.
@pytest.mark.parametrize(
    ("method", "center"),
    [("gram", False), ("gram", True), ("eigh", False), ("eigh", True), ("supplement", False)],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(method, center, normalize):
    frames = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mask = None if method == "supplement" else torch.tensor([[True] * 3, [True, False, True]])
    options = {"method": method, "center": center, "normalize": normalize, "eps": 0.1}
    assert torch.autograd.gradcheck(lambda x: log_covariance(x, mask, **options), frames)


@pytest.mark.parametrize("method", ["gram", "eigh"])
@pytest.mark.parametrize("clip", ["static", "repeated", "one_frame", "equal_singular_values", "zeros", "near_copies"])
def test_gradient_is_right_where_the_supplement_divides_by_zero(method, clip):
    x = torch.randn(1, 1, 7, dtype=torch.float64)
    frames = {
        "static": x.expand(1, 4, 7),
        "repeated": torch.cat([x, torch.randn(1, 2, 7, dtype=torch.float64), x], dim=1),
        "one_frame": x,
        "equal_singular_values": torch.eye(4, 7, dtype=torch.float64)[None],
        "zeros": torch.zeros(1, 4, 7, dtype=torch.float64),
        "near_copies": x + 1e-4 * torch.randn(1, 4, 7, dtype=torch.float64),
    }[clip]
    weight = torch.randn(7, 7, dtype=torch.float64)
    grad = gradient(frames, weight, method=method, eps=1e-2)
    for _ in range(3):
        direction = torch.randn_like(frames)
        expected = finite_difference(frames, direction, weight, eps=1e-2)
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_supplement_form_fails_on_a_static_clip_and_its_released_repair_drops_gradient():
    frames = torch.randn(1, 1, 7, dtype=torch.float64).repeat(1, 4, 1)
    weight = torch.randn(7, 7, dtype=torch.float64)
    assert not gradient(frames, weight, method="supplement").isfinite().all()
    # On a one-frame-short, exactly orthogonal clip the infinities are exact, and zeroing them is finite but wrong.
    orthogonal = torch.eye(4, 7, dtype=torch.float64)[None]
    repaired = gradient(orthogonal, weight, method="supplement", nonfinite="zero")
    exact = gradient(orthogonal, weight, method="gram")
    assert repaired.isfinite().all()
    assert (repaired - exact).norm() > 0.05 * exact.norm()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_float32_gradient_against_float64(scale):
    frames = scale * torch.randn(4, 6, 16, dtype=torch.float64)
    weight = torch.randn(16, 16, dtype=torch.float64)
    exact = gradient(frames, weight)
    single = gradient(frames.float(), weight.float())
    assert (single - exact).norm() <= 1e-4 * exact.norm()


def test_rotation_permutation_and_symmetry():
    frames = torch.randn(2, 5, 8, dtype=torch.float64)
    pooled = log_covariance(frames)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    assert torch.allclose(log_covariance(frames @ rotation.T), rotation @ pooled @ rotation.T, atol=1e-9)
    assert torch.allclose(log_covariance(frames[:, torch.randperm(5)]), pooled, atol=1e-9)
    assert torch.allclose(pooled, pooled.mT, atol=1e-12)
    values = torch.linalg.eigvalsh(pooled)
    assert (values >= math.log(1e-3) - 1e-9).all()


def test_commutes_with_the_spherical_transform():
    frames = torch.randn(1, 5, 8, dtype=torch.float64)
    source, target = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    rotation = spherical_transform(torch.eye(8, dtype=torch.float64), source, target).T  # columns A e_i
    moved = log_covariance(spherical_transform(frames, source, target))
    assert torch.allclose(moved, rotation @ log_covariance(frames) @ rotation.T, atol=1e-9)


def test_fully_masked_clip_is_defined():
    frames = torch.randn(1, 3, 4, requires_grad=True)
    pooled = log_covariance(frames, torch.zeros(1, 3, dtype=torch.bool), center=True, normalize=True)
    assert torch.allclose(pooled, math.log(1e-3) * torch.eye(4))
    pooled.sum().backward()
    assert torch.equal(frames.grad, torch.zeros(1, 3, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_clip_gives_nan_and_leaves_the_others_alone(method, bad):
    frames = torch.randn(2, 3, 4)
    frames[0, 1, 2] = bad
    pooled = log_covariance(frames, method=method)
    assert pooled[0].isnan().all()
    assert torch.allclose(pooled[1], log_covariance(frames[1:], method=method)[0])


def test_autocast_is_an_island():
    frames = torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = log_covariance(frames)
        from_half = log_covariance(frames.bfloat16())
    assert torch.equal(pooled, log_covariance(frames))
    assert from_half.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_second_derivative_raises(method):
    frames = torch.randn(1, 3, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(log_covariance(frames, method=method).square().sum(), frames, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": torch.zeros(2, 3)}, r"\(B, T, D\)"),
        ({"frames": torch.zeros(1, 2, 3, dtype=torch.int64)}, "floating point"),
        ({"mask": torch.zeros(1, 3, dtype=torch.bool)}, "mask must be bool"),
        ({"mask": torch.zeros(1, 2)}, "mask must be bool"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"method": "svd"}, "method must be one of"),
        ({"nonfinite": "drop"}, "nonfinite must be"),
        ({"frames": torch.zeros(1, 4, 3), "method": "supplement"}, "at most as many frames as features"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    arguments = {"frames": torch.zeros(1, 2, 3), **arguments}
    with pytest.raises(ValueError, match=message):
        log_covariance(arguments.pop("frames"), **arguments)
