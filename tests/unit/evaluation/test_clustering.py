import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.evaluation.clustering import (
    b_cubed,
    b_cubed_items,
    clustering_metrics,
    normalized_mutual_information,
    pairwise,
    weighted_purity,
)


def slow(people, clusters):
    """Everything from its definition, with loops."""
    items = list(zip(people, clusters, strict=True))
    n = len(items)
    purity = sum(
        max(sum(item == (person, cluster) for item in items) for person in set(people)) for cluster in set(clusters)
    )
    precision = [
        sum(p == person and c == cluster for p, c in items) / sum(c == cluster for _, c in items)
        for person, cluster in items
    ]
    recall = [
        sum(p == person and c == cluster for p, c in items) / sum(p == person for p, _ in items)
        for person, cluster in items
    ]
    pairs = list(itertools.combinations(items, 2))
    both = sum(a == b for a, b in pairs)
    in_cluster, of_person = (sum(a[side] == b[side] for a, b in pairs) for side in (1, 0))

    def entropy(labels):
        shares = [labels.count(label) / n for label in set(labels)]
        return -sum(share * math.log(share) for share in shares)

    mutual = entropy(people) + entropy(clusters) - entropy(items)
    mean = (entropy(people) + entropy(clusters)) / 2
    return {
        "purity": purity / n,
        "nmi": mutual / mean if mean else 1.0,
        "b_cubed": (sum(precision) / n, sum(recall) / n),
        "pairwise": (both / in_cluster if in_cluster else 0.0, both / of_person if of_person else 0.0),
    }


def harmonic(precision, recall):
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


labels = st.integers(1, 25).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(-2, 4), min_size=n, max_size=n) for _ in range(2)))
)


@settings(max_examples=300, deadline=None)
@given(labels)
def test_metrics_equal_the_slow_reference(given):
    people, clusters = (np.array(values) for values in given)
    expected = slow(*given)
    assert weighted_purity(people, clusters) == pytest.approx(expected["purity"], abs=1e-12)
    assert normalized_mutual_information(people, clusters) == pytest.approx(expected["nmi"], abs=1e-9)
    for name, metric in (("b_cubed", b_cubed), ("pairwise", pairwise)):
        wanted = (*expected[name], harmonic(*expected[name]))
        assert metric(people, clusters) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(labels)
def test_nmi_equals_scikit_learn(given):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn, which the extra metric brings")
    people, clusters = (np.array(values) for values in given)
    expected = metrics.normalized_mutual_info_score(people, clusters)
    assert normalized_mutual_information(people, clusters) == pytest.approx(expected, abs=1e-9)


def test_metrics_computed_by_hand():
    """Anna 3 times and Bert once in one cluster, Bert twice in another."""
    people, clusters = np.array([1, 1, 1, 2, 2, 2]), np.array([7, 7, 7, 7, 9, 9])
    assert weighted_purity(people, clusters) == pytest.approx(5 / 6)
    assert b_cubed(people, clusters)[:2] == pytest.approx(((3 * 3 / 4 + 1 / 4 + 2) / 6, (3 + 1 / 3 + 2 * 2 / 3) / 6))
    assert pairwise(people, clusters)[:2] == pytest.approx((4 / 7, 4 / 6))
    precision, recall = b_cubed_items(people, clusters)
    assert precision.tolist() == [0.75, 0.75, 0.75, 0.25, 1, 1]
    assert recall == pytest.approx([1, 1, 1, 1 / 3, 2 / 3, 2 / 3])


def test_perfect_clustering_with_any_labels():
    people = np.array([3, 3, 1, 2, 2, 2])
    found = clustering_metrics(people, np.array([10, 10, 30, 20, 20, 20]))
    assert (found["n_items"], found["n_people"], found["n_clusters"]) == (6, 3, 3)
    assert found["weighted_purity"] == found["nmi"] == 1
    perfect = {"precision": 1, "recall": 1, "f": 1}
    assert found["b_cubed"] == found["pairwise"] == perfect
    assert found["b_cubed_interval"] == {"precision": [1, 1], "recall": [1, 1]}


def test_intervals_contain_the_means():
    random = np.random.default_rng(0)
    people, clusters = random.integers(0, 20, 300), random.integers(0, 4, 300)
    found = clustering_metrics(people, clusters)
    for name, (low, high) in found["b_cubed_interval"].items():
        assert low < found["b_cubed"][name] < high


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (2,)), ((2, 2), (2, 2))])
def test_wrong_shapes_raise(shapes):
    with pytest.raises(ValueError, match=r"people and clusters must be \(N,\) with N > 0, not "):
        pairwise(*(np.zeros(shape, np.int64) for shape in shapes))
