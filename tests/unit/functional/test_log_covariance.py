import math
import shutil
from itertools import product
from typing import Any

import cv2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.functional import (
    half_unvectorize,
    half_vectorize,
    log_covariance,
    spherical_congruence,
    spherical_transform,
    sqrt_covariance,
)
from facereel.functional.spectral import _of_features as of_features

METHODS = ("gram", "eigh", "supplement")
# Relative error that a result may have against float64, per dtype of the input.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def reference(frames, mask=None, *, eps=1e-3, center=False, normalize=False, unit_frames=False, length=None):
    """The definition, clip by clip in float64: log of the n x n matrix by its eigenvalues."""
    pooled = []
    for b in range(len(frames)):
        rows = frames[b].double() if mask is None else frames[b].double()[mask[b]]
        if unit_frames:
            rows = torch.stack([row / row.norm() for row in rows])
        if center and len(rows):
            rows = rows - rows.mean(dim=0)
        second_moment = rows.T @ rows
        if normalize and len(rows):
            second_moment = second_moment / len(rows)
        identity = torch.eye(frames.shape[2], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(second_moment + eps * identity)
        logarithm = vectors @ torch.diag(values.log()) @ vectors.T
        if length is not None:
            logarithm = logarithm - math.log(eps) * identity
            logarithm = length * logarithm / logarithm.norm()
        pooled.append(logarithm)
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


SCALED = [{"unit_frames": True}, {"length": 30.0}, {"unit_frames": True, "length": 30.0}]


@pytest.mark.parametrize("method", ["gram", "eigh"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scaled_clips_equal_the_definition(method, center, scaling, dtype):
    frames = 10 * torch.randn(3, 5, 9, dtype=dtype)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False, True, False, True, True]])
    options = {"eps": 0.1, "center": center, "normalize": True, **scaling}
    pooled = log_covariance(frames.masked_fill(~mask[..., None], math.nan), mask, method=method, **options)
    expected = reference(frames, mask, **options)
    assert (pooled - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("pool", [log_covariance, sqrt_covariance])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 100.0])
def test_length_removes_the_scale_of_features_and_eps(pool, eps):
    frames = torch.randn(2, 4, 7, dtype=torch.float64)
    options = {"eps": eps, "normalize": True, "unit_frames": True, "length": 30.0}
    pooled = pool(frames, **options)
    assert torch.allclose(torch.linalg.matrix_norm(pooled), torch.full((2,), 30.0, dtype=torch.float64))
    scales = torch.tensor([1e-3, 1.0, 50.0, 1e4], dtype=torch.float64)[:, None]
    assert torch.allclose(pool(scales * frames, **options), pooled, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pool", [log_covariance, sqrt_covariance])
@pytest.mark.parametrize(("n_frames", "dim"), [(3, 5), (6, 4)])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scaling", SCALED)
def test_gradcheck_of_scaled_clips(pool, n_frames, dim, center, scaling):
    frames = torch.randn(2, n_frames, dim, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * n_frames, [True, False] + [True] * (n_frames - 2)])
    options = {"eps": 0.1, "center": center, "normalize": True, **scaling}
    assert torch.autograd.gradcheck(lambda x: pool(x, mask, **options), frames)


@pytest.mark.parametrize("clip", ["static", "one_frame", "equal_singular_values", "near_copies"])
@pytest.mark.parametrize("method", ["gram", "eigh"])
def test_gradient_of_scaled_clips_where_the_supplement_divides_by_zero(method, clip):
    x = torch.randn(1, 1, 7, dtype=torch.float64)
    frames = {
        "static": x.expand(1, 4, 7),
        "one_frame": x,
        "equal_singular_values": torch.eye(4, 7, dtype=torch.float64)[None],
        "near_copies": x + 1e-4 * torch.randn(1, 4, 7, dtype=torch.float64),
    }[clip]
    weight = torch.randn(7, 7, dtype=torch.float64)
    options = {"eps": 0.1, "normalize": True, "unit_frames": True, "length": 30.0}
    grad = gradient(frames, weight, method=method, **options)
    for _ in range(3):
        direction = torch.randn_like(frames)
        expected = finite_difference(frames, direction, weight, **options)
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("n_frames", "dim"), [(6, 16), (40, 16)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(("spread", "tolerance"), [(1.0, 1e-4), (1e-4, 1e-3)])
def test_float32_gradient_of_scaled_clips_against_float64(n_frames, dim, scale, spread, tolerance):
    base = torch.randn(4, 1, dim, dtype=torch.float64) if spread < 1 else 0
    frames = (scale * (base + spread * torch.randn(4, n_frames, dim, dtype=torch.float64))).float()
    weight = torch.randn(dim, dim, dtype=torch.float64)
    options = {"eps": 0.1, "normalize": True, "unit_frames": True, "length": 30.0}
    exact = gradient(frames.double(), weight, **options)
    single = gradient(frames, weight.float(), **options)
    assert (single - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("dim", [3, 5])
def test_clip_without_real_frames_gives_zeros_with_a_length(dim):
    frames = torch.randn(2, 4, dim, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4])
    pooled = log_covariance(frames, mask, unit_frames=True, length=30.0)
    assert torch.equal(pooled[0], torch.zeros(dim, dim))
    pooled.sum().backward()
    assert torch.equal(frames.grad[0], torch.zeros(4, dim))
    assert frames.grad[1].isfinite().all()


def test_invalid_length_raises():
    with pytest.raises(ValueError, match="length must be > 0, not -1"):
        log_covariance(torch.randn(1, 2, 3), length=-1)
    with pytest.raises(ValueError, match="method 'supplement' does not support length="):
        log_covariance(torch.randn(1, 2, 3), length=1.0, method="supplement")


@pytest.mark.parametrize("n_frames", [1, 4, 9, 14])
def test_auto_accepts_any_number_of_frames(n_frames):
    frames = torch.randn(2, n_frames, 6, dtype=torch.float64)
    assert torch.allclose(log_covariance(frames), reference(frames), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["gram", "eigh"])
def test_masked_clips_equal_the_clips_without_their_padding(method):
    frames = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False, True, False, True, True, False]])
    garbage = frames.masked_fill(~mask[..., None], math.nan)
    for center, normalize in product((False, True), repeat=2):
        options = {"center": center, "normalize": normalize}
        pooled = log_covariance(garbage, mask, method=method, center=center, normalize=normalize)
        assert torch.allclose(pooled, reference(frames, mask, **options), rtol=0, atol=1e-10)


# A centered clip has a singular value of zero, which the supplement's form divides by: no row for it.
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


@pytest.mark.parametrize("clip", ["static", "zeros", "equal_singular_values"])
def test_supplement_form_fails_where_it_divides_by_zero(clip):
    """The processor's rounding decides between NaN, infinity and a finite gradient of any size."""
    frames = {
        "static": torch.randn(50, 1, 7, dtype=torch.float64).repeat(1, 4, 1),
        "zeros": torch.zeros(1, 4, 7, dtype=torch.float64),
        "equal_singular_values": torch.eye(4, 7, dtype=torch.float64)[None],
    }[clip]
    weight = torch.randn(7, 7, dtype=torch.float64)
    found, exact = (gradient(frames, weight, method=method) for method in ("supplement", "gram"))
    assert not ((found - exact).flatten(1).norm(dim=1) <= 1e3 * exact.flatten(1).norm(dim=1)).any()


def test_released_fix_of_the_supplement_form_drops_gradient():
    weight = torch.randn(7, 7, dtype=torch.float64)
    orthogonal = torch.eye(4, 7, dtype=torch.float64)[None]
    repaired = gradient(orthogonal, weight, method="supplement", nonfinite="zero")
    exact = gradient(orthogonal, weight, method="gram")
    assert repaired.isfinite().all()
    assert (repaired - exact).norm() > 0.05 * exact.norm()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(("n_frames", "dim"), [(6, 16), (40, 16)])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("spread", "tolerance"), [(1.0, 1e-4), (1e-4, 1e-3)])
def test_float32_gradient_against_float64(scale, n_frames, dim, center, normalize, spread, tolerance):
    """Random clips, and near-copies: frames of norm about 4 that are 1e-4 apart."""
    frames = torch.randn(4, n_frames, dim, dtype=torch.float64)
    if spread < 1:
        frames = torch.randn(4, 1, dim, dtype=torch.float64) + spread * frames
    frames = (scale * frames).float()
    weight = torch.randn(dim, dim, dtype=torch.float64)
    options = {"center": center, "normalize": normalize}
    exact = gradient(frames.double(), weight, **options)
    single = gradient(frames, weight.float(), **options)
    assert (single - exact).norm() <= tolerance * exact.norm()


def test_batch_of_long_clips_uses_float64_if_one_clip_needs_it():
    """More frames than features: float32 is enough for the random clip, not for the near-copies beside it."""
    random, copies = torch.randn(1, 40, 16), torch.randn(1, 1, 16) + 1e-4 * torch.randn(1, 40, 16)
    weight = torch.randn(16, 16)
    for frames in (random, copies, torch.cat([random, copies])):
        exact, single = gradient(frames.double(), weight.double()), gradient(frames, weight)
        assert (single - exact).norm() <= 1e-4 * exact.norm()


def test_static_clip_of_a_real_image(shared):
    """Five frames that are one image: the supplement's form divides by what is zero but for rounding."""
    folder = shared / "data/youtube_faces/frame_images_DB/Carlos_Iturgaitz/3"
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder.glob("*.jpg"))]
    assert len(images) == 5
    frames = torch.stack([torch.from_numpy(cv2.resize(p, (8, 8))).double().flatten() / 255 for p in images])[None]
    weight = torch.randn(64, 64, dtype=torch.float64)
    grad, single = gradient(frames, weight), gradient(frames.float(), weight.float())
    for _ in range(3):
        direction = torch.randn_like(frames)
        expected = finite_difference(frames, direction, weight)
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=1e-4)
    assert (single - grad).norm() <= 1e-3 * grad.norm()
    # NaN, infinite or of any size, by how the decomposition rounds its zeros.
    supplement = gradient(frames, weight, method="supplement")
    assert not (supplement - grad).norm() <= 10 * grad.norm()


CLIPS = st.tuples(
    st.integers(1, 6),  # frames
    st.integers(1, 6),  # features
    st.sampled_from([1e-4, 1.0, 1e3]),  # scale
    st.sampled_from([1.0, 1e-4, 0.0]),  # how far frames are apart
    st.booleans(),  # centered
    st.booleans(),  # normalized
    st.integers(0, 2**31),  # seed
)


def draw_clip(n_frames, dim, scale, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    base, noise = torch.randn(1, dim, generator=generator), torch.randn(n_frames, dim, generator=generator)
    return scale * (base + spread * noise).double(), generator


@settings(deadline=None, max_examples=150)
@given(CLIPS, st.sampled_from([log_covariance, sqrt_covariance]))
def test_properties_of_any_clip(clip, pool):
    n_frames, dim, scale, spread, center, normalize, seed = clip
    frames, generator = draw_clip(n_frames, dim, scale, spread, seed)
    options = {"center": center, "normalize": normalize}
    pooled = pool(frames[None], **options)[0]
    # Symmetric, and no eigenvalue below that of an empty clip.
    assert torch.allclose(pooled, pooled.mT, atol=1e-12)
    floor = pool(torch.zeros(1, 1, 1, dtype=torch.float64)).item()
    assert torch.linalg.eigvalsh(pooled).min() >= floor - 1e-9
    # A rotation of the features rotates it.
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator).double()).Q
    tolerance = 1e-9 * max(1.0, pooled.abs().max().item()) * max(1.0, scale)
    rotated = pool((frames @ rotation.T)[None], **options)[0]
    assert torch.allclose(rotated, rotation @ pooled @ rotation.T, rtol=0, atol=tolerance)
    # The order of frames is of no account, nor is padding, whatever it holds and wherever it is.
    order = torch.randperm(n_frames, generator=generator)
    assert torch.allclose(pool(frames[order][None], **options)[0], pooled, rtol=0, atol=tolerance)
    padded = torch.full((n_frames + 2, dim), math.nan, dtype=torch.float64)
    real = torch.randperm(n_frames + 2, generator=generator)[:n_frames]
    padded[real] = frames
    mask = torch.zeros(1, n_frames + 2, dtype=torch.bool)
    mask[0, real] = True
    assert torch.allclose(pool(padded[None], mask, **options)[0], pooled, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=100)
@given(CLIPS)
def test_methods_agree_on_any_clip(clip):
    n_frames, dim, scale, spread, center, normalize, seed = clip
    frames, generator = draw_clip(n_frames, dim, scale, spread, seed)
    options = {"center": center, "normalize": normalize}
    weight = torch.randn(dim, dim, generator=generator).double()
    results = []
    for method in ("gram", "eigh"):
        x = frames[None].clone().requires_grad_()
        pooled = log_covariance(x, method=method, **options)
        (pooled * weight).sum().backward()
        results.append((pooled.detach(), x.grad))
    (value_a, grad_a), (value_b, grad_b) = results
    # An eigenvalue is known to about 1e-16 times the largest one; the logarithm and its slope see that over eps.
    tolerance = 1e-9 * max(1.0, scale**2)
    assert (value_a - value_b).norm() <= tolerance * value_a.norm()
    assert (grad_a - grad_b).norm() <= tolerance * grad_a.norm() + 1e-12


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(0, 2**31))
def test_half_vectorization_keeps_inner_products_and_is_invertible(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, dim, dim, dtype=torch.float64, generator=generator)
    a, b = a + a.mT, b + b.mT
    assert half_vectorize(a).shape == (3, dim * (dim + 1) // 2)
    products = (half_vectorize(a) * half_vectorize(b)).sum(dim=-1)
    assert torch.allclose(products, (a * b).sum(dim=(-1, -2)))
    assert torch.allclose(half_unvectorize(half_vectorize(a)), a)


def test_half_vectorization_rejects_non_square_input():
    for wrong in (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"\(\.\.\., D, D\)"):
            half_vectorize(wrong)
    with pytest.raises(ValueError, match=r"D \(D \+ 1\) / 2"):
        half_unvectorize(torch.zeros(2, 4))


def test_commutes_with_the_spherical_transform():
    frames = torch.randn(3, 5, 8, dtype=torch.float64)
    source, target = torch.randn(2, 3, 8, dtype=torch.float64)
    for pool in (log_covariance, sqrt_covariance):
        moved = pool(spherical_transform(frames, source[:, None], target[:, None]))
        assert torch.allclose(moved, spherical_congruence(pool(frames), source, target), rtol=0, atol=1e-9)


def test_fully_masked_clip_is_defined():
    frames = torch.randn(1, 3, 4, requires_grad=True)
    pooled = log_covariance(frames, torch.zeros(1, 3, dtype=torch.bool), center=True, normalize=True)
    assert torch.allclose(pooled, math.log(1e-3) * torch.eye(4))
    pooled.sum().backward()
    assert torch.equal(frames.grad, torch.zeros(1, 3, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_clip_gives_nan_without_changing_other_clips(method, bad):
    frames = torch.randn(2, 3, 4)
    frames[0, 1, 2] = bad
    pooled = log_covariance(frames, method=method)
    assert pooled[0].isnan().all()
    assert torch.allclose(pooled[1], log_covariance(frames[1:], method=method)[0])


@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_clip_gives_nan_gradient_without_changing_other_clips(method):
    frames, weight = torch.randn(2, 3, 4), torch.randn(4, 4)
    clean = gradient(frames, weight, method=method)
    frames[0, 1, 2] = math.inf
    grad = gradient(frames, weight, method=method)
    assert grad[0].isnan().all()
    assert torch.allclose(grad[1], clean[1])


@pytest.mark.parametrize(("n_frames", "dim"), [(4, 3), (3, 4)])
def test_overflowing_second_moment_gives_nan(n_frames, dim):
    assert log_covariance(torch.full((1, n_frames, dim), 1e200, dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_no_clips_and_no_frames(shape):
    pooled = log_covariance(torch.zeros(shape), center=True, normalize=True)
    assert torch.allclose(pooled, (math.log(1e-3) * torch.eye(4)).expand(shape[0], 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "method"), [("aot_eager", "gram"), ("aot_eager", "eigh"), ("inductor", "gram")])
def test_compiles_without_a_graph_break(backend, method):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile's inductor needs a C++ compiler")
    frames, mask = torch.randn(2, 6, 4), torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    torch.compiler.reset()

    def loss(x, mask):
        return log_covariance(2 * x, mask, method=method, center=True).sin()

    expected = gradient_of(loss, frames, mask)
    assert torch.allclose(
        gradient_of(torch.compile(loss, backend=backend, fullgraph=True), frames, mask), expected, atol=1e-4, rtol=1e-4
    )


def gradient_of(loss, frames, mask):
    x = frames.clone().requires_grad_()
    loss(x, mask).sum().backward()
    return x.grad


def test_long_clips_use_float32_if_accurate_enough():
    """More frames than features: what a well-conditioned clip saves costs it only float32's own error."""
    frames = torch.randn(2, 60, 8)
    assert of_features(frames, 1e-3)[1].dtype == torch.float32
    assert torch.allclose(log_covariance(frames).double(), reference(frames), rtol=1e-4, atol=1e-4)
    frames[1, :, 0] *= 1e-3
    assert of_features(frames, 1e-3)[1].dtype == torch.float64


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_change_the_result(method):
    frames, weight = torch.randn(2, 5, 8), torch.randn(8, 8)
    expected, expected_grad = log_covariance(frames, method=method), gradient(frames, weight, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, from_half = (log_covariance(x, method=method) for x in (frames, frames.bfloat16()))
        grad = gradient(frames, weight, method=method)
    assert torch.equal(pooled, expected)
    assert torch.equal(grad, expected_grad)
    assert from_half.dtype == torch.float32
    assert torch.equal(from_half, log_covariance(frames.bfloat16().float(), method=method))


def test_default_dtype_does_not_matter():
    frames, mask = torch.randn(2, 5, 8, dtype=torch.float64), torch.ones(2, 5, dtype=torch.bool)
    options: dict[str, Any] = {"center": True, "normalize": True}
    expected = log_covariance(frames, **options)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = log_covariance(frames, mask, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_second_derivative_raises(method):
    frames = torch.randn(1, 3, 5, requires_grad=True)

    def loss(x):
        return log_covariance(x, method=method).square().sum()

    (grad,) = torch.autograd.grad(loss(frames), frames, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.functional.hessian(loss, frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": torch.zeros(2, 3)}, r"\(B, T, D\)"),
        ({"frames": torch.zeros(1, 2, 0)}, r"\(B, T, D\)"),
        ({"frames": torch.zeros(1, 2, 3, dtype=torch.int64)}, "floating point"),
        ({"mask": torch.zeros(1, 3, dtype=torch.bool)}, "mask must be bool"),
        ({"mask": torch.zeros(1, 2)}, "mask must be bool"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"method": "svd"}, "method must be one of"),
        ({"nonfinite": "drop"}, "nonfinite must be"),
        ({"frames": torch.zeros(1, 4, 3), "method": "supplement"}, "at most as many frames as features"),
    ],
)
def test_wrong_input_raises(arguments, message):
    arguments = {"frames": torch.zeros(1, 2, 3), **arguments}
    with pytest.raises(ValueError, match=message):
        log_covariance(arguments.pop("frames"), **arguments)


@pytest.mark.parametrize(("dim", "n_used"), [(30, 1), (129, 3)])
def test_small_matrices_are_decomposed_in_one_thread(monkeypatch, dim, n_used):
    """With other work running, many threads of LAPACK took 50 times as long as one."""
    before, used, eigh = torch.get_num_threads(), [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: used.append(torch.get_num_threads()) or eigh(x))
    torch.set_num_threads(3)
    try:
        log_covariance(torch.randn(2, dim, 200))
        assert (used, torch.get_num_threads()) == ([n_used], 3)
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_is_restored_after_an_error(monkeypatch):
    def fail(matrices):
        raise RuntimeError("did not converge")

    before = torch.get_num_threads()
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="did not converge"):
            log_covariance(torch.randn(2, 3, 5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
