import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.functional import spherical_congruence, spherical_transform, translation_transform


def rotation_matrix(source, target):
    """A of the main paper's Eq. 4 as it is written, with Gram-Schmidt for n2."""
    mu1, mu2 = source / source.norm(), target / target.norm()
    cosine = mu1 @ mu2
    n1, n2 = mu1, mu2 - cosine * mu1
    n2 = n2 / n2.norm()
    angle = torch.acos(cosine)
    spin = torch.outer(n2, n1) - torch.outer(n1, n2)
    plane = torch.outer(n1, n1) + torch.outer(n2, n2)
    return torch.eye(len(source), dtype=source.dtype) + spin * angle.sin() + plane * (angle.cos() - 1)


@pytest.fixture
def means():
    return torch.randn(2, 6, dtype=torch.float64)


def test_equals_the_matrix_of_equation_4(means):
    x = torch.randn(7, 6, dtype=torch.float64)
    matrix = rotation_matrix(*means)
    assert torch.allclose(spherical_transform(x, *means), x @ matrix.T, atol=1e-12)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)


def test_keeps_norms_and_maps_source_to_target(means):
    x = 3 * torch.randn(7, 6, dtype=torch.float64)
    moved = spherical_transform(x, *means)
    assert torch.allclose(moved.norm(dim=-1), x.norm(dim=-1))
    unit = means / means.norm(dim=-1, keepdim=True)
    assert torch.allclose(spherical_transform(unit[0], *means), unit[1], atol=1e-12)
    assert torch.allclose(spherical_transform(moved, means[1], means[0]), x, atol=1e-12)


def test_keeps_vectors_orthogonal_to_both_means(means):
    basis = torch.linalg.qr(torch.cat([means, torch.randn(4, 6, dtype=torch.float64)]).T).Q
    across = basis[:, 2:].T
    assert torch.allclose(spherical_transform(across, *means), across, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 7), st.integers(0, 2**31))
def test_group_properties(dim, seed):
    """Rotations of a plane: identity, inverses, angles add up; inner products and orientation are kept."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dim, dtype=torch.float64, generator=generator)

    x, y, mu1, mu2 = draw(5), draw(5), draw(), draw()
    moved = spherical_transform(x, mu1, mu2)
    assert torch.allclose(spherical_transform(x, mu1, mu1), x)
    assert torch.allclose(spherical_transform(moved, mu2, mu1), x)
    assert torch.allclose((moved * spherical_transform(y, mu1, mu2)).sum(-1), (x * y).sum(-1))
    matrix = spherical_transform(torch.eye(dim, dtype=torch.float64), mu1, mu2).T
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)
    # A third mean between the two: two steps are one.
    n1, n2 = (m / m.norm() for m in (mu1, mu2))
    between = 0.3 * n1 + 0.7 * n2
    assert torch.allclose(spherical_transform(spherical_transform(x, mu1, between), between, mu2), moved)
    # Means count by their direction alone.
    assert torch.allclose(spherical_transform(x, 3 * mu1, 0.1 * mu2), moved)
    symmetric = x.T @ x
    assert torch.allclose(spherical_congruence(symmetric, mu1, mu2), matrix @ symmetric @ matrix.T)


@pytest.mark.parametrize("planes", [1, 2])
def test_proposition_1(planes):
    """Two classes that a rotation in the plane of mu1 and an eigenvector of Sigma1 makes from each other: the rotation
    spanned by both means is that one. It is not, if the classes are turned in a second plane as well."""
    mu1 = torch.zeros(6, dtype=torch.float64)
    mu1[0] = 1.0
    spread = torch.tensor([0.0, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)  # axes are eigenvectors of Sigma1
    x1 = mu1 + spread * torch.randn(4000, 6, dtype=torch.float64)
    x1 = x1 - x1.mean(dim=0) + mu1
    angle = 0.8
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    rotation = torch.eye(6, dtype=torch.float64)
    rotation[:2, :2] = turn
    if planes == 2:
        rotation[3:5, 3:5] = turn
    x2 = x1 @ rotation.T
    found = spherical_transform(x1, x1.mean(dim=0), x2.mean(dim=0))
    assert torch.allclose(found, x2, atol=1e-9) == (planes == 1)


def test_proposition_3_in_both_directions(means):
    """With x = mu + sigma, not unit: SFT is the translation iff sigma is orthogonal to both means."""
    unit = means / means.norm(dim=-1, keepdim=True)
    basis = torch.linalg.qr(torch.cat([unit, torch.randn(4, 6, dtype=torch.float64)]).T).Q
    orthogonal = unit[0] + 0.7 * basis[:, 3]
    tilted = orthogonal + 0.1 * unit[1]
    assert torch.allclose(spherical_transform(orthogonal, *unit), translation_transform(orthogonal, *unit), atol=1e-12)
    assert (spherical_transform(tilted, *unit) - translation_transform(tilted, *unit)).norm() > 0.01


def test_equal_and_opposite_means(means):
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.allclose(spherical_transform(x, means[0], 2 * means[0]), x, atol=1e-12)
    opposite = spherical_transform(x, means[0], -means[0])
    assert torch.allclose(opposite.norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(spherical_transform(means[0], means[0], -means[0]), -means[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12, 5e-13, 0.0])
def test_nearly_opposite_means(dtype, gap):
    """Rounding of their sum must not show: norms are kept, and the source is taken to the target."""
    digits = 20 * torch.finfo(dtype).eps
    source = torch.randn(64, dtype=dtype)
    for length in (-1.0, -3.0, -0.7):
        target = length * source + gap * torch.randn(64, dtype=dtype)
        matrix = spherical_transform(torch.eye(64, dtype=dtype), source, target)
        assert torch.allclose(torch.linalg.svdvals(matrix), torch.ones(64, dtype=dtype), rtol=0, atol=digits)
        moved = spherical_transform(source / source.norm(), source, target)
        assert torch.allclose(moved, target / target.norm(), rtol=0, atol=digits)


def test_broadcasts_over_pairs_of_classes():
    x, source, target = torch.randn(3, 4, 5), torch.randn(3, 1, 5), torch.randn(3, 1, 5)
    moved = spherical_transform(x, source, target)
    for i in range(3):
        assert torch.allclose(moved[i], spherical_transform(x[i], source[i, 0], target[i, 0]), atol=1e-6)


def test_gradcheck(means):
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    source, target = (m.clone().requires_grad_() for m in means)
    assert torch.autograd.gradcheck(spherical_transform, (x, source, target))
    assert torch.autograd.gradcheck(translation_transform, (x, source, target))


@pytest.mark.parametrize("transform", [spherical_transform, translation_transform])
def test_wrong_shapes_raise(transform):
    with pytest.raises(ValueError, match="the same last dimension"):
        transform(torch.zeros(2, 3), torch.zeros(3), torch.zeros(4))


def test_congruence_rejects_non_square_input():
    with pytest.raises(ValueError, match="D, D"):
        spherical_congruence(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3))


def test_exactly_opposite_means_have_a_gradient():
    """Of two axes exactly opposed one reflection is left, which has a gradient in x and stands still in the source."""
    source = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    x = torch.randn(2, 3, requires_grad=True)
    spherical_transform(x, source, -source.detach()).sum().backward()
    assert torch.allclose(x.grad, torch.tensor([[-1.0, 1.0, 1.0]]).expand(2, 3))
    assert torch.equal(source.grad, torch.zeros(3))


def test_nan_propagates():
    x, source, target = torch.randn(3, 6), torch.randn(6), torch.randn(6)
    x[1, 2] = torch.nan
    moved = spherical_transform(x, source, target)
    assert moved[1].isnan().all()
    assert moved[[0, 2]].isfinite().all()
    source[0] = torch.nan
    assert spherical_transform(x, source, target).isnan().all()


@pytest.mark.slow
def test_compiles_without_a_graph_break(means):
    x = torch.randn(3, 6, dtype=torch.float64)
    compiled = torch.compile(spherical_transform, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, *means), spherical_transform(x, *means))
