import numpy as np
import pytest
import torch

from facereel.evaluation.intervals import means_over_people


def test_one_stratum_equals_the_loop_over_draws_of_people():
    random = np.random.default_rng(1)
    people, values = random.integers(0, 12, 80), random.random(80)
    means, intervals = means_over_people([(torch.from_numpy(people), {"a": torch.from_numpy(values)})], n_draws=300)
    assert means["a"] == pytest.approx(values.mean(), abs=1e-12)
    random = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        times = random.multinomial(12, np.full(12, 1 / 12))
        drawn = [value for person, value in zip(people, values, strict=True) for _ in range(times[person])]
        draws.append(sum(drawn) / len(drawn))
    assert intervals["a"] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=1e-12)


def test_strata_are_averaged_with_equal_weight():
    ones = (torch.arange(30), {"a": torch.ones(30), "b": torch.ones(30)})
    zeros = (torch.arange(2), {"a": torch.zeros(2)})
    means, intervals = means_over_people([ones, zeros])
    assert means == {"a": 0.5}
    assert intervals["a"] == pytest.approx([0.5, 0.5])


def test_strata_are_drawn_separately():
    """The variance of a mean of two independent means is half that of each, so the interval is narrower by sqrt(2)."""
    random = np.random.default_rng(2)
    parts = [(torch.arange(200), {"a": torch.from_numpy(random.random(200))}) for _ in range(2)]
    widths = [high - low for low, high in (means_over_people(strata)[1]["a"] for strata in ([parts[0]], parts))]
    assert widths[1] == pytest.approx(widths[0] / 2**0.5, rel=0.1)


def test_queries_of_one_person_are_drawn_together():
    values = torch.tensor([0.0, 1.0] * 50)
    widths = []
    for people in (torch.arange(100), torch.arange(100) % 2):
        low, high = means_over_people([(people, {"a": values})])[1]["a"]
        widths.append(high - low)
    assert widths[0] < 0.25
    assert widths[1] == pytest.approx(1)


def test_empty_input_has_no_mean():
    assert means_over_people([]) == ({}, {})
    assert means_over_people([(torch.zeros(0), {"a": torch.zeros(0)})]) == ({}, {})
    assert means_over_people([(torch.zeros(3), {})]) == ({}, {})
