"""Intervals of means over queries, and tests of their differences; a person's queries are not independent.

People are the units throughout: a person is resampled, or changes sides, with all queries of all seeds.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.evaluation.intervals import means_over_people

# By the name of a query: its person and its average precision.
Queries = Mapping[Hashable, tuple[str, float]]

# Fixed, so that a table is the same each time it is written.
_SEED = 0

# Differences that only rounding tells apart count as equal.
_ROUNDING = 1e-12


def bootstrap_interval(queries: Queries, n_draws: int = 2_000, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean over queries, by the bootstrap of Efron (1979) with people as the units.

    Args:
        queries: by their names, as `(person, average precision)`.
        n_draws: how often people are drawn.
        level: fraction of the draws' means within the interval.

    Returns:
        Its lower and upper end; both are the mean if there is a single person.

    Raises:
        ValueError: if there is no query.

    >>> low, high = bootstrap_interval({i: (f"person {i % 10}", i % 10 / 9) for i in range(40)})
    >>> low < 0.5 < high
    True
    """
    if not queries:
        raise ValueError("no query to take a mean of")
    names, values = zip(*queries.values(), strict=True)
    people = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    _, intervals = means_over_people([(people, {"mean": torch.tensor(values, dtype=torch.float64)})], n_draws, level)
    low, high = intervals["mean"]
    return low, high


def permutation_p(first: Queries, second: Queries, n_permutations: int = 10_000) -> float:
    """p-value of the difference of two means, by a paired permutation test (Fisher 1935) with people as the units.

    In each permutation every person's differences change sign together, or do not. Two-sided; the observed
    arrangement counts as one of the permutations.

    Args:
        first: by their names, as `(person, average precision)`.
        second: of the same queries.
        n_permutations: how many are drawn.

    Returns:
        p in 0..1; never 0.

    Raises:
        ValueError: if the queries are not the same.

    >>> a = {i: (f"person {i}", 0.6) for i in range(20)}
    >>> permutation_p(a, {i: (person, value - 0.1) for i, (person, value) in a.items()}) < 0.001
    True
    >>> permutation_p(a, a)
    1.0
    """
    if first.keys() != second.keys():
        raise ValueError("only means over the same queries are compared")
    differences, _ = _by_person([(person, value - second[name][1]) for name, (person, value) in first.items()])
    signs = np.random.default_rng(_SEED).integers(0, 2, size=(n_permutations, len(differences))) * 2 - 1
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - _ROUNDING
    return float((1 + as_large.sum()) / (1 + n_permutations))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests for the chance of any false finding (Holm 1979).

    Args:
        p_values: of the tests.

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
    """Each person's sum over queries and their number, in the order of names."""
    sums: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for person, value in queries:
        sums[person] += value
        counts[person] += 1
    people = sorted(sums)
    return np.array([sums[person] for person in people]), np.array([counts[person] for person in people])
