"""Which norms of a gradient are too large."""

import math

import pytest
import torch

from facereel.training.gradient_guard import LARGEST, WINDOW, GradientLimit, max_norm


@pytest.mark.parametrize("value", [0.5, -1e33, 3e38, math.inf, math.nan])
@pytest.mark.parametrize("size", [(3,), (2, 3, 4), (1000, 1000)])
def test_the_norm_is_exact_on_every_processor(value, size):
    gradients = [torch.zeros(5), torch.full(size, value), torch.full((2, 2), 0.25)]
    assert max_norm(gradients, torch.zeros(())).item() == pytest.approx(torch.tensor(abs(value)).item(), nan_ok=True)


def test_without_gradients_the_norm_is_zero():
    assert max_norm([], torch.tensor(3.0)).item() == 0


def after(*norms, max_ratio=1e6):
    """The limit of a run that took steps with these norms."""
    limit = GradientLimit(max_ratio)
    for norm in norms:
        assert limit.problem(norm) is None
        limit.record(norm)
    return limit


@pytest.mark.parametrize("norms", [[], [0.0], [1.0], [1.0] * 100])
@pytest.mark.parametrize("norm", [math.nan, math.inf, 1e33])
def test_invalid_norms_are_described(norms, norm):
    assert after(*norms).problem(norm)
    assert after(*norms, max_ratio=1e300).problem(norm)


def test_largest_norm_has_a_square_in_float32():
    assert torch.tensor(LARGEST).square().isfinite()
    assert not torch.tensor(1.05 * LARGEST).square().isfinite()


@pytest.mark.parametrize("n_steps", [1, 2, 3, WINDOW, 100])
@pytest.mark.parametrize("usual", [1.0, 1e3, 1e10])
def test_limit_is_relative_to_previous_steps(n_steps, usual):
    limit = after(*[usual] * n_steps)
    assert limit.problem(0.99e6 * usual) is None
    assert limit.problem(1.01e6 * usual)


def test_steps_without_gradient_are_not_recorded():
    """A loss of triplets has none where all are far apart."""
    assert after(*[0.0] * 100).problem(1.0) is None
    assert after(*[0.0] * 100, 5.0, *[0.0] * 100).problem(4.9e6) is None
    assert after(*[0.0] * 100, 5.0, *[0.0] * 100).problem(5.1e6)


def test_single_large_steps_do_not_raise_the_limit():
    """As in training that diverges, each step larger than the one before."""
    limit = after(*[1.0] * WINDOW, 1e3, 1e5)
    assert limit.problem(1e7)
    assert after(1.0, 1.0, 1.0, 1e5).problem(1e7)


@pytest.mark.parametrize("norms", [[7.2e-5], [0.7**k for k in range(100)], [1e-12] * 100])
def test_normal_step_after_tiny_steps_is_accepted(norms):
    """Of a loss whose triplets are nearly all far apart, or of training that has converged."""
    assert after(*norms).problem(89.0) is None
    assert after(*norms).problem(1.01e6)


@pytest.mark.parametrize("n_steps", [0, 3, WINDOW, 50])
def test_resumed_run_decides_like_an_uninterrupted_one(n_steps):
    norms = [0.9**k for k in range(n_steps + 30)]
    unbroken, resumed = after(*norms), GradientLimit(1e6)
    resumed.load_state_dict(after(*norms[:n_steps]).state_dict())
    for norm in norms[n_steps:]:
        resumed.record(norm)
    assert resumed.state_dict() == unbroken.state_dict()
    assert resumed.usual == unbroken.usual
