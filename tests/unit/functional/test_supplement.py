"""The DHH supplement's derivation, equation by equation, and the identities of its section II."""

import pytest
import torch

from facereel.functional import log_covariance

EPS = 1e-3


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inner(a, b):
    """A : B."""
    return (a * b).sum()


def diag(x):
    """X_diag: the matrix with all off-diagonal elements zero, of any shape."""
    kept = torch.zeros_like(x)
    for i in range(min(x.shape)):
        kept[i, i] = x[i, i]
    return kept


def sym(x):
    return (x + x.T) / 2


def test_s11_inner_product_is_symmetric_and_survives_transposing():
    a, b = torch.randn(2, 3, 5)
    assert torch.allclose(inner(a, b), inner(a.T, b.T))
    assert torch.allclose(inner(a, b), inner(b, a))
    assert torch.allclose(inner(a, b), torch.trace(a.T @ b))


def test_s12_factors_move_across():
    a, b, c = torch.randn(3, 5), torch.randn(3, 4), torch.randn(4, 5)
    assert torch.allclose(inner(a, b @ c), inner(b.T @ a, c))
    assert torch.allclose(inner(a, b @ c), inner(a @ c.T, b))


def test_s13_diagonals_move_across():
    a, b = torch.randn(2, 3, 5)
    assert torch.allclose(inner(a, diag(b)), inner(diag(a), b))


def test_s14_symmetric_parts_move_across():
    a, b = torch.randn(2, 4, 4)
    assert torch.allclose(inner(a, sym(b)), inner(sym(a), b))


def test_s15_hadamard_factors_move_across():
    a, b, c = torch.randn(3, 3, 5)
    assert torch.allclose(inner(a, b * c), inner(b * a, c))


def test_s16_blocks_add_up():
    a, b = torch.randn(2, 4, 6)
    assert torch.allclose(inner(a, b), inner(a[:, :2], b[:, :2]) + inner(a[:, 2:], b[:, 2:]))


class Variation:
    """All quantities of section I for one D (m x n) and one dD, each by its own equation."""

    def __init__(self, d, dd):
        m, n = d.shape
        self.u, s, vt = torch.linalg.svd(d, full_matrices=True)
        self.v = vt.T
        self.sigma = torch.zeros(m, n)
        self.sigma[range(m), range(m)] = s
        r = self.u.T @ dd @ self.v  # S2
        self.d_sigma = diag(r)  # S3
        self.p = torch.zeros(m, m)  # S6
        for i in range(m):
            for j in range(m):
                if i != j:
                    self.p[i, j] = 1 / (s[j] ** 2 - s[i] ** 2)
        self.du = 2 * self.u @ (self.p * sym(r @ self.sigma.T))  # S7
        h = self.u.T @ dd - self.u.T @ self.du @ self.sigma @ self.v.T - self.d_sigma @ self.v.T  # S8
        v1, v2 = self.v[:, :m], self.v[:, m:]
        inverse = torch.diag(1 / s)
        self.dv = torch.cat([h.T @ inverse, -v1 @ inverse @ h @ v2], dim=1)  # S10
        # Main paper, eq. 11 (our reconstruction): Y = V L V' with L = log(S'S + eps I).
        diagonal = torch.cat([s**2, torch.zeros(n - m)]) + EPS
        log_s = torch.diag(diagonal.log())
        d_log = torch.diag(2 * torch.cat([s * torch.diagonal(self.d_sigma), torch.zeros(n - m)]) / diagonal)
        self.dy = self.dv @ log_s @ self.v.T + self.v @ d_log @ self.v.T + self.v @ log_s @ self.dv.T


@pytest.fixture(params=[(3, 3), (3, 7), (1, 4)])
def variation(request):
    d, dd = torch.randn(2, *request.param)
    return d, dd, Variation(d, dd)


def test_s1_variations_combine_to_the_variation_of_d(variation):
    _, dd, x = variation
    rebuilt = x.du @ x.sigma @ x.v.T + x.u @ x.d_sigma @ x.v.T + x.u @ x.sigma @ x.dv.T
    assert torch.allclose(rebuilt, dd)


def test_s3_gives_the_change_of_singular_values(variation):
    d, dd, x = variation
    up, down = (torch.linalg.svdvals(d + step * dd) for step in (1e-6, -1e-6))
    assert torch.allclose(torch.diagonal(x.d_sigma), (up - down) / 2e-6, atol=1e-7)


def test_s5_solves_s4(variation):
    _, dd, x = variation
    a, r = x.u.T @ x.du, x.u.T @ dd @ x.v
    b = x.dv.T @ x.v
    assert torch.allclose(a @ x.sigma + x.sigma @ b, r - diag(r))


def test_s7_and_s10_keep_u_and_v_orthogonal(variation):
    _, _, x = variation
    for basis, change in ((x.u, x.du), (x.v, x.dv)):
        skew = basis.T @ change
        assert torch.allclose(skew, -skew.T, atol=1e-9)


def test_variation_matches_the_map_and_backward_is_its_adjoint(variation):
    d, dd, x = variation
    up, down = (log_covariance((d + step * dd)[None], eps=EPS, method="eigh")[0] for step in (1e-6, -1e-6))
    assert torch.allclose(x.dy, (up - down) / 2e-6, atol=1e-5)
    frames, weight = d[None].clone().requires_grad_(), torch.randn(d.shape[1], d.shape[1])
    (log_covariance(frames, eps=EPS, method="supplement")[0] * weight).sum().backward()
    assert torch.allclose(inner(frames.grad[0], dd), inner(weight, x.dy), rtol=1e-7)
