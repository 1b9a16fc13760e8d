"""The benchmark's own figures, against their definitions."""

import itertools

import benchmark_cluster
import numpy as np
import pytest


def test_scores_equal_their_definitions():
    random = np.random.default_rng(0)
    people, groups = random.integers(0, 6, 40), random.integers(1, 9, 40)
    pairs = list(itertools.combinations(range(40), 2))
    joined = [people[a] == people[b] for a, b in pairs if groups[a] == groups[b]]
    apart = [groups[a] == groups[b] for a, b in pairs if people[a] == people[b]]
    pure = [np.mean(people[groups == groups[i]] == people[i]) for i in range(40)]
    whole = [np.mean(groups[people == people[i]] == groups[i]) for i in range(40)]
    found = benchmark_cluster.compare(people, groups)
    expected = (np.mean(joined), np.mean(apart), np.mean(pure), np.mean(whole))
    assert (found.precision, found.recall, found.b_precision, found.b_recall) == pytest.approx(expected)
    assert found.f == pytest.approx(2 / (1 / expected[0] + 1 / expected[1]))
    assert found.b_f == pytest.approx(2 / (1 / expected[2] + 1 / expected[3]))
    assert found.n_groups == len(set(groups.tolist()))


def test_drawn_codes_of_one_person_are_nearer():
    codes, person = benchmark_cluster.drawn(200)
    bits = np.unpackbits(codes, axis=1)
    distances = (bits[:, None] != bits[None]).mean(axis=2)
    same = person[:, None] == person
    np.fill_diagonal(distances, np.nan)
    assert np.bincount(person).tolist() == [10] * 20
    assert np.nanmean(distances[same]) == pytest.approx(0.2, abs=0.03)
    assert np.nanmean(distances[~same]) == pytest.approx(0.4, abs=0.03)


def test_run_prints_its_findings():
    run = benchmark_cluster.run(300)
    assert run.found == 1
    assert run.scores.precision > 0.9
    assert run.seconds > 0
