"""Statistics over people, against slow loops and against data whose answer is known."""

import itertools

import numpy as np
import pytest

from facereel.evaluation.significance import bootstrap_interval, holm, permutation_p


def drawn(n_people, per_person, shift=0.0, seed=0):
    """Queries of people who are easy or hard to find, each person's much alike."""
    random = np.random.default_rng(seed)
    level = random.normal(0.5, 0.2, n_people)
    values = level[:, None] + random.normal(0, 0.01, (n_people, per_person)) + shift
    return {(p, q): (f"P{p:02}", float(values[p, q])) for p in range(n_people) for q in range(per_person)}


def mean(queries):
    return sum(value for _, value in queries.values()) / len(queries)


def test_interval_equals_a_loop_over_draws_of_people():
    queries = {name: value for name, value in drawn(6, 4).items() if name != (0, 3)}  # unequal numbers of queries
    low, high = bootstrap_interval(queries, n_draws=20_000)
    people = sorted({person for person, _ in queries.values()})
    random = np.random.default_rng(5)
    means = []
    for _ in range(4_000):
        values = [
            value for p in random.choice(people, len(people)) for person, value in queries.values() if person == p
        ]
        means.append(sum(values) / len(values))
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.015)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.015)
    assert low < mean(queries) < high


def test_more_queries_of_the_same_people_do_not_narrow_the_interval():
    few, many = (bootstrap_interval(drawn(12, n)) for n in (1, 50))
    assert many[1] - many[0] == pytest.approx(few[1] - few[0], rel=0.05)
    alone = drawn(1, 20)
    assert bootstrap_interval(alone) == pytest.approx((mean(alone), mean(alone)))


def test_p_value_equals_all_permutations():
    random = np.random.default_rng(1)
    first = drawn(7, 2)
    second = {name: (person, value - random.normal(0.05, 0.1)) for name, (person, value) in first.items()}
    by_person = {}
    for name, (person, value) in first.items():
        by_person[person] = by_person.get(person, 0) + value - second[name][1]
    d = list(by_person.values())
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((-1, 1), repeat=7)]
    exact = sum(s >= abs(sum(d)) - 1e-12 for s in sums) / len(sums)
    assert 0.01 < exact < 0.9
    assert permutation_p(first, second, n_permutations=50_000) == pytest.approx(exact, abs=0.01)
    assert permutation_p(first, second) == permutation_p(second, first)


def test_queries_of_one_person_are_one_observation():
    """Four people cannot give p below 2 / 2^4, however many queries each has."""
    first = drawn(4, 100)
    second = {name: (person, value - 0.3) for name, (person, value) in first.items()}
    assert permutation_p(first, second) == pytest.approx(2 / 2**4, abs=0.01)


def test_incomparable_queries_raise():
    with pytest.raises(ValueError, match="same queries"):
        permutation_p(drawn(3, 2), drawn(3, 1))
    with pytest.raises(ValueError, match="queries is empty"):
        bootstrap_interval({})


def test_holm_keeps_the_order_and_never_decreases_p():
    values = [0.2, 0.001, 0.04, 0.8, 0.02]
    adjusted = holm(values)
    assert all(a >= p for a, p in zip(adjusted, values, strict=True))
    assert adjusted[1] == pytest.approx(0.005)
    assert adjusted[4] == pytest.approx(0.08)
    assert sorted(adjusted) == [adjusted[i] for i in sorted(range(5), key=lambda i: values[i])]
    assert holm([]) == []
