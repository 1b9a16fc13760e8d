import numpy as np
import pytest
import scipy.linalg
import torch

from facereel.functional import linear_discriminants


def planted(n_classes=6, n_each=9, dim=5, dtype=torch.float64, seed=0):
    """Classes of unequal sizes, of correlated features, with means that are not centered."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat_interleave(torch.arange(n_classes) + n_each)
    mixing = torch.randn(dim, dim, generator=random, dtype=dtype)
    means = 3 * torch.randn(n_classes, dim, generator=random, dtype=dtype) + 2
    return means[labels] + torch.randn(len(labels), dim, generator=random, dtype=dtype) @ mixing, labels


def scatter(x, labels):
    """Covariances within classes and of the classes' means, by explicit loops."""
    dim = x.shape[1]
    within, means = np.zeros((dim, dim)), []
    for label in sorted(set(labels.tolist())):
        rows = [row.numpy() for row, of in zip(x.double(), labels.tolist(), strict=True) if of == label]
        mean = sum(rows) / len(rows)
        means.append(mean)
        for row in rows:
            within += np.outer(row - mean, row - mean)
    within /= len(x) - len(means)
    middle = sum(means) / len(means)
    between = sum(np.outer(mean - middle, mean - middle) for mean in means)
    return within, between


def same_up_to_sign(a, b, tolerance):
    signs = (a * b).sum(dim=0).sign()
    return (a - b * signs).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 2.0])
def test_equals_the_generalized_eigenproblem(shrinkage):
    x, labels = planted()
    within, between = scatter(x, labels)
    within += shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    _, vectors = scipy.linalg.eigh(between, within)
    expected = torch.from_numpy(vectors[:, ::-1].copy())  # normalized so that v' within v = 1
    found = linear_discriminants(x, labels, 5, shrinkage=shrinkage)
    assert same_up_to_sign(found, expected, 1e-8)
    assert torch.allclose(linear_discriminants(x, labels, 2, shrinkage=shrinkage).abs(), found[:, :2].abs())


def test_components_are_white_within_classes_and_strongest_first():
    x, labels = planted(n_classes=8, dim=6)
    components = x @ linear_discriminants(x, labels, 6)
    within, between = scatter(components, labels)
    assert np.abs(within - np.eye(6)).max() < 1e-9
    assert np.abs(between - np.diag(np.diag(between))).max() < 1e-8 * between.max()
    assert (np.diff(np.diag(between)) < 0).all()


def test_shrinkage_reduces_the_variance_within_classes():
    x, labels = planted()
    spread = [np.trace(scatter(x @ linear_discriminants(x, labels, 4, shrinkage=s), labels)[0]) for s in (0, 0.1, 1, 5)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] == pytest.approx(4)


def test_components_are_invariant_to_invertible_linear_maps():
    x, labels = planted()
    linear = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = x @ linear_discriminants(x, labels, 3)
    moved = x @ linear + 7
    found = moved @ linear_discriminants(moved, labels, 3)
    assert same_up_to_sign(found - found.mean(dim=0), expected - expected.mean(dim=0), 1e-8)
    shrunk = moved @ linear_discriminants(moved, labels, 3, shrinkage=1.0)
    assert not same_up_to_sign(shrunk - shrunk.mean(dim=0), expected - expected.mean(dim=0), 1e-2)


def test_label_values_and_order_do_not_matter():
    x, labels = planted()
    expected = linear_discriminants(x, labels, 3, shrinkage=0.5)
    numbers = torch.tensor([40, -3, 7, 1000, 8, 0])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert same_up_to_sign(linear_discriminants(x, numbers[labels], 3, shrinkage=0.5), expected, 1e-8)
    assert same_up_to_sign(linear_discriminants(x[order], labels[order], 3, shrinkage=0.5), expected, 1e-8)
    assert not same_up_to_sign(linear_discriminants(x[order], labels, 3, shrinkage=0.5), expected, 0.1)


@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_constant_feature_gets_zero_weight(shrinkage):
    x, labels = planted()
    wide = torch.cat([x, torch.full((len(x), 2), 5.0, dtype=x.dtype)], dim=1)
    found = linear_discriminants(wide, labels, 3, shrinkage=shrinkage)
    assert found.isfinite().all()
    assert found[5:].abs().max() < 1e-6
    if shrinkage == 0:
        assert same_up_to_sign(found[:5], linear_discriminants(x, labels, 3), 1e-6)


def test_redundant_features_give_finite_components():
    x, labels = planted()
    doubled = torch.cat([x, x[:, :2]], dim=1)
    expected, found = x @ linear_discriminants(x, labels, 3), doubled @ linear_discriminants(doubled, labels, 3)
    assert same_up_to_sign(found, expected, 1e-6)


def test_fewer_rows_than_features():
    x, labels = planted(n_classes=4, n_each=2, dim=60)
    components = x @ linear_discriminants(x, labels, 3, shrinkage=1.0)
    assert components.isfinite().all()
    # Nearest class means find every row: with more features than rows the classes lie apart.
    means = torch.stack([components[labels == i].mean(dim=0) for i in range(4)])
    assert torch.equal(torch.cdist(components, means).argmin(dim=1), labels)


def test_result_has_the_input_dtype_and_float64_accuracy():
    x, labels = planted()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        found = linear_discriminants(x.to(dtype), labels, 3)
        assert found.dtype == dtype
        assert found.shape == (5, 3)
        assert same_up_to_sign(found.double(), linear_discriminants(x, labels, 3), tolerance)


def test_inputs_are_not_modified():
    x, labels = planted()
    before = x.clone(), labels.clone()
    linear_discriminants(x, labels, 3, shrinkage=1.0)
    assert torch.equal(x, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4)}, "must be"),
        ({"x": torch.zeros(5, 3)}, r"not \(5, 3\) and \(4,\)"),
        ({"labels": torch.zeros(4, 1)}, r"labels \(N,\)"),
        ({"shrinkage": -1.0}, "shrinkage=-1"),
        ({"shrinkage": float("nan")}, "shrinkage=nan"),
        ({"labels": torch.zeros(4).long()}, "4 rows in 1 classes"),
        ({"labels": torch.arange(4)}, "4 rows in 4 classes"),
        ({"n_components": 0}, "n_components=0"),
        ({"n_components": 4}, "n_components=4: must be 1 to 3, the number of features"),
    ],
)
def test_wrong_input_raises(change, message):
    options = {"x": torch.rand(4, 3), "labels": torch.tensor([0, 0, 1, 1]), "n_components": 1, **change}
    with pytest.raises(ValueError, match=message):
        linear_discriminants(**options)


def test_components_beyond_the_classes_do_not_separate_their_means():
    labels = torch.arange(3).repeat_interleave(50)
    x = torch.randn(150, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) + 3 * labels[:, None]
    components = x @ linear_discriminants(x, labels, 5)
    assert torch.equal(linear_discriminants(x, labels, 2), linear_discriminants(x, labels, 5)[:, :2])
    means = torch.stack([components[labels == person].mean(dim=0) for person in range(3)])
    assert torch.allclose(means[:, 2:], means[:1, 2:].expand(3, -1), atol=1e-8)
    residuals = components - means[labels]
    assert torch.allclose(residuals.T @ residuals / (150 - 3), torch.eye(5, dtype=torch.float64), atol=1e-8)
