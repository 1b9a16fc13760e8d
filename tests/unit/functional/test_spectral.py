"""The scalar functions behind the covariance poolings, against 200 digits."""

import itertools

import mpmath
import pytest
import torch

from facereel.functional.spectral import Log, Sqrt

# Zero, either side of the change of formula at 1e-2, equal, nearly equal and far apart.
POINTS = [
    0.0,
    1e-40,
    1e-12,
    1e-6,
    2e-5,
    1e-3,
    0.009,
    0.00999999,
    0.01,
    0.010000001,
    0.3,
    0.3 + 1e-9,
    7.0,
    1e4,
    1e4 + 1e-6,
    1e14,
]


def exact_phi(function, t):
    return mpmath.log1p(t) if function is Log else mpmath.sqrt(1 + t) - 1


def exact_h(function, t):
    if t == 0:
        return mpmath.mpf(1) if function is Log else mpmath.mpf(1) / 2
    return exact_phi(function, t) / t


def exact_difference(f, s, t):
    """(f(s) - f(t)) / (s - t), or the derivative where s = t by a central difference."""
    if s != t:
        return (f(s) - f(t)) / (s - t)
    step = mpmath.mpf(10) ** -50
    return (f(s + step) - f(s - step)) / (2 * step)


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(200):
        yield


@pytest.mark.parametrize("function", [Log, Sqrt])
def test_values(function):
    t = torch.tensor(POINTS, dtype=torch.float64)
    phi = [float(exact_phi(function, mpmath.mpf(x))) for x in POINTS]
    h = [float(exact_h(function, mpmath.mpf(x))) for x in POINTS]
    assert function.phi(t).tolist() == pytest.approx(phi, rel=1e-14, abs=0)
    assert function.h(t).tolist() == pytest.approx(h, rel=1e-14)


@pytest.mark.parametrize("function", [Log, Sqrt])
def test_divided_differences(function):
    t = torch.tensor(POINTS, dtype=torch.float64)
    phi, h = function.phi_difference(t), function.h_difference(t)
    for (i, s), (j, u) in itertools.product(enumerate(POINTS), repeat=2):
        s, u = mpmath.mpf(s), mpmath.mpf(u)
        expected = float(exact_difference(lambda x: exact_phi(function, x), s, u))
        assert phi[i, j].item() == pytest.approx(expected, rel=1e-14), (s, u)
        # Just above the change of formula 1e-16 / 0.01 is lost.
        expected = float(exact_difference(lambda x: exact_h(function, x), s, u))
        assert h[i, j].item() == pytest.approx(expected, rel=1e-13 if function is Log else 1e-14), (s, u)


def test_phi_and_h_reconstruct_f():
    x = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    eps = 0.2
    for function, f in ((Log, torch.log), (Sqrt, torch.sqrt)):
        rebuilt = function.floor(eps) + function.scale(eps) * function.phi(x / eps)
        assert torch.allclose(rebuilt, f(x + eps))
