"""Every pooling: smoke and shapes, wrong input, numbers against slow loops, gradcheck, compile, and its properties."""

import math
from typing import Any

import pytest
import torch

from facereel.errors import UserError
from facereel.functional import half_vectorize, log_covariance, spherical_transform
from facereel.models import (
    AttentionLogCovariancePooling,
    AttentionPooling,
    GaussianPooling,
    GeMPooling,
    LogCovariancePooling,
    MaxPooling,
    MeanLogCovariancePooling,
    MeanPooling,
    RecognizabilityPooling,
    SqrtCovariancePooling,
)

DIM = 5
MASK = torch.tensor([[True, True, False, True], [False, True, False, False]])


def matrix_function(matrix, function):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(function(values)) @ vectors.T


def second_moment(rows, center=False, normalize=False):
    rows = rows - rows.mean(dim=0) if center else rows
    total = sum(torch.outer(row, row) for row in rows)
    return total / len(rows) if normalize else total


def slow_log_covariance(rows, eps=1e-3, **options):
    return matrix_function(second_moment(rows, **options) + eps * torch.eye(DIM), torch.log)


def slow_gaussian(rows, function, constant=1.0, eps=1e-3):
    mean, deviations = rows.mean(dim=0), rows - rows.mean(dim=0)
    matrix = torch.zeros(DIM + 1, DIM + 1)
    matrix[:DIM, :DIM] = second_moment(deviations, normalize=True) + torch.outer(mean, mean)
    matrix[:DIM, DIM] = matrix[DIM, :DIM] = constant * mean
    matrix[DIM, DIM] = constant**2
    return matrix_function(matrix + eps * torch.eye(DIM + 1), function)


def attention():
    pooling = AttentionPooling(DIM)
    torch.nn.init.normal_(pooling.query, generator=torch.Generator().manual_seed(1))
    return pooling


def attention_log():
    pooling = AttentionLogCovariancePooling(DIM, mean_scale=3.0)
    pooling.mean = attention()
    return pooling


def slow_attention(rows):
    chances = torch.stack([torch.exp(row @ attention().query) for row in rows])
    return sum(chance / chances.sum() * row for chance, row in zip(chances, rows, strict=True))


def recognizability_pooling(**options):
    pooling = RecognizabilityPooling(DIM, **options)
    pooling.set_center(torch.randn(3, DIM, generator=torch.Generator().manual_seed(2)))
    return pooling


def slow_recognizability(rows, p=3.0, length_p=3.0):
    center = recognizability_pooling().center
    weights = [(1 - row @ center / row.norm()) ** p * row.norm() ** length_p for row in rows]
    return sum(weight / sum(weights) * unit(row) for weight, row in zip(weights, rows, strict=True))


def slow_scaled_log(rows):
    logarithm = slow_log_covariance(unit_rows(rows), eps=0.1, normalize=True) - math.log(0.1) * torch.eye(DIM)
    return 30 * unit(half_vectorize(logarithm))


def unit(vector):
    return vector / vector.norm()


def unit_rows(rows):
    return torch.stack([unit(row) for row in rows])


# Frames of length 1 and a result of length 30.
SCALED: dict[str, Any] = {"unit_frames": True, "length": 30.0}


# Name: the pooling, and what it is of one clip (T, D) of real frames, in the plainest words.
POOLINGS = {
    "mean": (lambda: MeanPooling(DIM), lambda rows: rows.mean(dim=0)),
    "max": (lambda: MaxPooling(DIM), lambda rows: rows.max(dim=0).values),
    "gem": (
        lambda: GeMPooling(DIM, p=2.5, eps=0.1),
        lambda rows: (rows.clamp_min(0.1) ** 2.5).mean(dim=0) ** (1 / 2.5),
    ),
    "attention": (attention, slow_attention),
    "recognizability": (recognizability_pooling, slow_recognizability),
    "recognizability_scaled": (
        lambda: recognizability_pooling(p=2.0, length_p=0.0, length=30.0),
        lambda rows: 30 * unit(slow_recognizability(rows, p=2.0, length_p=0.0)),
    ),
    "log": (lambda: LogCovariancePooling(DIM), lambda rows: slow_log_covariance(rows).flatten()),
    "log_supplement": (
        lambda: LogCovariancePooling(DIM, eps=0.1, method="supplement"),
        lambda rows: slow_log_covariance(rows, eps=0.1).flatten(),
    ),
    "log_half": (
        lambda: LogCovariancePooling(DIM, half_vectorized=True, subtract_floor=True),
        lambda rows: half_vectorize(slow_log_covariance(rows) - math.log(1e-3) * torch.eye(DIM)),
    ),
    "log_centered": (
        lambda: LogCovariancePooling(DIM, center=True, normalize=True),
        lambda rows: slow_log_covariance(rows, center=True, normalize=True).flatten(),
    ),
    "sqrt": (
        lambda: SqrtCovariancePooling(DIM, normalize=True),
        lambda rows: matrix_function(second_moment(rows, normalize=True) + 1e-3 * torch.eye(DIM), torch.sqrt).flatten(),
    ),
    "gaussian": (lambda: GaussianPooling(DIM), lambda rows: slow_gaussian(rows, torch.sqrt).flatten()),
    "gaussian_log": (
        lambda: GaussianPooling(DIM, function="log", constant=2.0, half_vectorized=True),
        lambda rows: half_vectorize(slow_gaussian(rows, torch.log, constant=2.0)),
    ),
    "mean_log": (
        lambda: MeanLogCovariancePooling(DIM, mean_scale=3.0),
        lambda rows: torch.cat([3 * rows.mean(dim=0), slow_log_covariance(rows).flatten()]),
    ),
    "attention_log": (
        attention_log,
        lambda rows: torch.cat([3 * slow_attention(rows), slow_log_covariance(rows).flatten()]),
    ),
    "mean_scaled": (lambda: MeanPooling(DIM, **SCALED), lambda rows: 30 * unit(unit_rows(rows).mean(dim=0))),
    "log_scaled": (
        lambda: LogCovariancePooling(DIM, eps=0.1, normalize=True, half_vectorized=True, **SCALED),
        slow_scaled_log,
    ),
    "gaussian_scaled": (
        lambda: GaussianPooling(DIM, eps=0.1, **SCALED),
        lambda rows: (
            30 * unit((slow_gaussian(unit_rows(rows), torch.sqrt, eps=0.1) - 0.1**0.5 * torch.eye(DIM + 1)).flatten())
        ),
    ),
    "mean_log_scaled": (
        lambda: MeanLogCovariancePooling(DIM, mean_scale=3.0, eps=0.1, normalize=True, half_vectorized=True, **SCALED),
        lambda rows: torch.cat([90 * unit(unit_rows(rows).mean(dim=0)), slow_scaled_log(rows)]),
    ),
}
# The weights of these depend on the frames, or they are not linear.
FIXED = ("max", "gem", "attention", "recognizability", "recognizability_scaled")
ROTATING = [name for name in POOLINGS if name not in (*FIXED, "attention_log")]


@pytest.fixture(params=POOLINGS)
def name(request):
    return request.param


@pytest.fixture
def pooling(name):
    return POOLINGS[name][0]()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("n_clips", "n_frames"), [(1, 1), (3, 4), (2, 7), (0, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(name, pooling, n_clips, n_frames, dtype):
    if name == "log_supplement" and n_frames > DIM:
        pytest.skip("the supplement's form is defined for at most as many frames as features")
    pooled = pooling.to(dtype)(torch.randn(n_clips, n_frames, DIM, dtype=dtype))
    assert pooled.shape == (n_clips, pooling.out_dim)
    assert pooled.dtype == dtype
    assert pooled.isfinite().all()


def test_values_equal_slow_loops_over_real_frames(name, pooling):
    frames, slow = torch.randn(2, 4, DIM), POOLINGS[name][1]
    expected = torch.stack([slow(clip[real]) for clip, real in zip(frames, MASK, strict=True)])
    pooled = pooling(frames.masked_fill(~MASK[..., None], torch.nan), MASK)
    assert torch.allclose(pooled, expected, rtol=0, atol=1e-10)
    assert torch.allclose(pooling(frames), torch.stack([slow(clip) for clip in frames]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("frames", "mask", "message"),
    [
        (torch.zeros(2, DIM), None, r"\(B, T, D\)"),
        (torch.zeros(1, 2, DIM, dtype=torch.int64), None, "floating point"),
        (torch.zeros(1, 2, DIM), torch.zeros(1, 3, dtype=torch.bool), "mask must be bool"),
        (torch.zeros(1, 2, DIM), torch.zeros(1, 2), "mask must be bool"),
    ],
)
def test_wrong_input_raises(pooling, frames, mask, message):
    with pytest.raises(ValueError, match=message):
        pooling(frames, mask)


def test_gradcheck(name, pooling):
    frames = torch.randn(2, 4, DIM, requires_grad=True)
    # The supplement's form does not survive a zero row, which is a padded frame.
    mask = None if name == "log_supplement" else MASK
    parameters = [p for p in pooling.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: pooling(x, mask), (frames, *parameters))


@pytest.mark.slow
def test_compiled_result_is_equal_without_a_graph_break(name, pooling):
    frames, mask = torch.randn(2, 4, DIM), None if name == "log_supplement" else MASK
    results = []
    for call in (pooling, torch.compile(pooling, backend="aot_eager", fullgraph=True)):
        x = frames.clone().requires_grad_()
        pooled = call(x, mask)
        pooled.square().sum().backward()
        results += [pooled.detach(), x.grad]
    assert torch.allclose(results[0], results[2])
    assert torch.allclose(results[1], results[3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(pooling, dtype):
    """Features of 20,000 sum up beyond float16."""
    pooling = pooling.float()
    frames = (20_000 * (1 + torch.rand(2, 4, DIM))).to(dtype)
    expected = pooling(frames.float())
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooling(frames)
    assert pooled.dtype == torch.float32
    assert pooled.isfinite().all()
    assert torch.equal(pooled, expected)


def test_order_of_frames_and_padding_do_not_matter(pooling):
    frames = torch.randn(2, 4, DIM)
    order = torch.tensor([2, 0, 3, 1])
    expected = pooling(frames, MASK)
    assert torch.allclose(pooling(frames[:, order], MASK[:, order]), expected)
    longer = torch.cat([frames, torch.full((2, 1, DIM), torch.nan)], dim=1)
    assert torch.allclose(pooling(longer, torch.cat([MASK, torch.tensor([[False], [False]])], dim=1)), expected)


@pytest.mark.parametrize(
    "name",
    ["mean", "max", "gem", "attention", "recognizability", "log_half", "gaussian", "mean_scaled", "log_scaled"],
)
def test_clip_without_frames_gives_a_constant_and_a_zero_gradient(name):
    pooling = GaussianPooling(DIM, subtract_floor=True) if name == "gaussian" else POOLINGS[name][0]()
    frames = torch.randn(1, 3, DIM, requires_grad=True)
    pooled = pooling(frames, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.allclose(pooled, torch.zeros_like(pooled))
    pooled.sum().backward()
    assert torch.equal(frames.grad, torch.zeros_like(frames))


def test_nan_in_a_real_frame_affects_only_its_clip(pooling):
    frames = torch.randn(2, 4, DIM)
    clean = pooling(frames)
    frames[0, 1, 2] = torch.nan
    pooled = pooling(frames)
    assert pooled[0].isnan().any()
    assert torch.allclose(pooled[1], clean[1])


@pytest.mark.parametrize("name", ROTATING)
def test_rotating_pooled_clips_equals_pooling_rotated_frames(name):
    pooling, frames = POOLINGS[name][0](), torch.randn(3, 4, DIM)
    source, target = torch.randn(2, 3, DIM)
    expected = pooling(spherical_transform(frames, source[:, None], target[:, None]))
    rotated = pooling.rotate(pooling(frames), source, target)
    assert torch.allclose(rotated, expected, atol=1e-9)
    assert not torch.allclose(rotated, pooling(frames), atol=1e-3)


@pytest.mark.parametrize("name", FIXED)
def test_poolings_that_do_not_commute_have_no_rotate(name):
    assert not hasattr(POOLINGS[name][0](), "rotate")


def test_floor_is_shared_by_all_clips():
    frames = torch.randn(2, 3, DIM)
    difference = LogCovariancePooling(DIM, eps=0.01)(frames) - LogCovariancePooling(DIM, eps=0.01, subtract_floor=True)(
        frames
    )
    assert torch.allclose(difference, (math.log(0.01) * torch.eye(DIM)).flatten().expand(2, -1))


def test_half_vectorized_pooling_keeps_inner_products():
    full, half = LogCovariancePooling(DIM), LogCovariancePooling(DIM, half_vectorized=True)
    a, b = torch.randn(2, 1, 4, DIM)
    assert half.out_dim == DIM * (DIM + 1) // 2
    assert torch.allclose((half(a) * half(b)).sum(), (full(a) * full(b)).sum())
    assert torch.allclose(full(a).unflatten(1, (DIM, DIM)), log_covariance(a))


def test_gem_ranges_from_mean_to_maximum_without_overflow():
    frames = torch.rand(2, 4, DIM) * 1e4 + 1
    assert torch.allclose(GeMPooling(DIM, p=1.0)(frames), frames.mean(dim=1))
    assert torch.allclose(GeMPooling(DIM, p=500.0)(frames), frames.amax(dim=1), rtol=0.01)


def test_attention_starts_as_the_mean_and_learns():
    pooling, frames = AttentionPooling(DIM), torch.randn(2, 4, DIM)
    pooled = pooling(frames, MASK)
    assert torch.allclose(pooled, MeanPooling(DIM)(frames, MASK))
    pooled.square().sum().backward()
    assert (pooling.query.grad != 0).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: GeMPooling(3, p=0.0),
        lambda: MeanPooling(3, length=0.0),
        lambda: LogCovariancePooling(3, length=-1.0),
        lambda: GeMPooling(3, eps=-1.0),
        lambda: RecognizabilityPooling(3, p=0.5),
        lambda: RecognizabilityPooling(3, length_p=-1.0),
        lambda: RecognizabilityPooling(3, photo_limit=1.5),
        lambda: GaussianPooling(3, function="exp"),
        lambda: LogCovariancePooling(3, eps=0.0),
    ],
)
def test_wrong_options_raise(build):
    with pytest.raises(UserError, match="must be"):
        build()
