"""Intervals of means over queries, and significance tests of their differences.

The queries of a person are not independent, so people are the units: a person is resampled, or permuted, with all
queries of all seeds.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.evaluation.intervals import means_over_people

# The person and the average precision of each query, by its name.
Queries = Mapping[Hashable, tuple[str, float]]

# Fixed, so that a table is the same each time it is written.
_SEED = 0

# Differences up to this count as equal: they are rounding errors.
_ROUNDING = 1e-12


def bootstrap_interval(queries: Queries, n_draws: int = 2_000, level: float = 0.95) -> tuple[float, float]:
    """Compute the interval of a mean over queries by the bootstrap of Efron (1979) with people as the units.

    Args:
        queries: `(person, average precision)` of each query, by its name.
        n_draws: number of draws of people.
        level: fraction of the drawn means that is within the interval.

    Returns:
        The lower and upper end; both are the mean if there is a single person.

    Raises:
        ValueError: if there is no query.

    >>> low, high = bootstrap_interval({i: (f"person {i % 10}", i % 10 / 9) for i in range(40)})
    >>> low < 0.5 < high
    True
    """
    if not queries:
        raise ValueError("queries is empty, so it has no mean")
    names, values = zip(*queries.values(), strict=True)
    people = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    _, intervals = means_over_people([(people, {"mean": torch.tensor(values, dtype=torch.float64)})], n_draws, level)
    low, high = intervals["mean"]
    return low, high


def permutation_p(first: Queries, second: Queries, n_permutations: int = 10_000) -> float:
    """Compute the p-value of the difference of two means by a paired permutation test with people as the units.

    In each permutation (Fisher 1935), all differences of a person change their sign together or not at all. The test is
    two-sided; the observed arrangement counts as one of the permutations.

    Args:
        first: `(person, average precision)` of each query, by its name.
        second: the same queries with another method.
        n_permutations: number of permutations.

    Returns:
        The p-value, > 0 and at most 1.

    Raises:
        ValueError: if the queries are not the same.

    >>> a = {i: (f"person {i}", 0.6) for i in range(20)}
    >>> permutation_p(a, {i: (person, value - 0.1) for i, (person, value) in a.items()}) < 0.001
    True
    >>> permutation_p(a, a)
    1.0
    """
    if first.keys() != second.keys():
        raise ValueError("first and second must have the same queries")
    differences, _ = _by_person([(person, value - second[name][1]) for name, (person, value) in first.items()])
    signs = np.random.default_rng(_SEED).integers(0, 2, size=(n_permutations, len(differences))) * 2 - 1
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - _ROUNDING
    return float((1 + as_large.sum()) / (1 + n_permutations))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests for the probability of any false positive (Holm 1979).

    Args:
        p_values: p-values of the tests.

    Returns:
        The adjusted p-values, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _by_person(queries: Iterable[tuple[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum over queries and the number of queries of each person, in the order of names."""
    sums: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for person, value in queries:
        sums[person] += value
        counts[person] += 1
    people = sorted(sums)
    return np.array([sums[person] for person in people]), np.array([counts[person] for person in people])
