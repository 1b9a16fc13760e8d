import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facereel.data import Still
from facereel.evaluation import Encoded, evaluate_codes
from facereel.evaluation import open_set as module
from facereel.evaluation.open_set import accepted_at, open_set_metrics, search, threshold_below, tpir_at_fpir


def encoded(n, n_bits=6, n_people=5, n_sources=9):
    labels = torch.randint(n_people, (n,))
    scores = torch.rand(n, n_bits)
    items = [Still(person, f"{person}/{i % n_sources}", f"{i}", i) for i, person in enumerate(labels.tolist())]
    return Encoded(scores > 0.5, scores, labels, items)


def slow_tpir(items, distance, fpir):
    """For each threshold that a distance could be, both rates by counting; the best TPIR at a low enough FPIR."""
    mated, others = [], []
    for q, query in enumerate(items):
        kept = [(distance(q, n), item) for n, item in enumerate(items) if item.source != query.source]
        if any(item.person == query.person for _, item in kept):
            nearest = min(d for d, _ in kept)
            tied = [item.person == query.person for d, item in kept if d == nearest]
            mated.append((nearest, sum(tied) / len(tied)))
        away = [d for d, item in kept if item.person != query.person]
        if away:
            others.append(min(away))
    if fpir * len(others) < 1:
        return None
    best = 0.0
    for threshold in sorted({d for d, _ in mated}):
        if sum(d <= threshold for d in others) / len(others) <= fpir:
            best = sum(hit for d, hit in mated if d <= threshold) / len(mated)
    return best


@pytest.mark.parametrize("n_bits", [2, 6, 24])
def test_rates_of_a_task_agree_with_a_loop(n_bits, monkeypatch):
    items = encoded(60, n_bits)
    result = evaluate_codes({"still": items}, {"still": items})["still_to_still"]
    expected = {
        "codes": lambda a, b: int((items.codes[a] != items.codes[b]).sum()),
        "real_valued": lambda a, b: float((items.scores[a].double() - items.scores[b].double()).norm()),
    }
    monkeypatch.setattr(module, "FPIRS", (0.5, 0.1, 0.02, 0.001))
    for chunk in (2**23, 150):
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", chunk)
        metrics = open_set_metrics(result)
        for kind, distance in expected.items():
            slow = {f"{fpir:g}": slow_tpir(items.items, distance, fpir) for fpir in module.FPIRS}
            assert slow["0.001"] is None
            assert metrics["tpir_at_fpir"][kind] == pytest.approx(slow, abs=1e-9)
            for fpir, interval in metrics["tpir_at_fpir_interval"][kind].items():
                assert interval is None if slow[fpir] is None else interval[0] <= slow[fpir] <= interval[1]
        assert metrics["n_non_mated"] == 60


def test_search_computed_by_hand():
    """Query 0 ties with a stranger; query 1 has nobody of its person; query 2 is excluded from its match."""
    distances = torch.tensor([[2, 2, 5], [1, 3, 4], [7, 6, 9]])
    exclude = torch.tensor([[False, False, False], [False, False, False], [False, False, True]])
    found = search(lambda rows: distances[rows], torch.tensor([1, 8, 3]), torch.tensor([1, 2, 3]), exclude)
    assert found.nearest.tolist() == [2, 1, 6]
    assert found.hit.tolist() == [0.5, 0, 0]
    assert found.is_mated.tolist() == [True, False, False]
    assert found.nearest_other.tolist() == [2, 1, 6]


def test_rates_computed_by_hand():
    """Non-mated searches at 3, 4, 4, 9: a quarter of them lets 3 in, a half must not let in one of the two at 4."""
    others = torch.tensor([9.0, 4.0, 3.0, 4.0])
    assert threshold_below(others, 0.25) == 4
    assert threshold_below(others, 0.5) == 4
    assert threshold_below(others, 0.75) == 9
    assert threshold_below(others, 1) == torch.inf
    assert threshold_below(others, 0.24) is None
    assert threshold_below(torch.arange(100).double(), 0.29) == 29  # 0.29 * 100 is a little less
    accepted = accepted_at(torch.tensor([3.9, 4.0, 9.0]), others, (1, 0.75, 0.5, 0.1))
    assert {rate: values.tolist() for rate, values in accepted.items()} == {
        "1": [True, True, True],
        "0.75": [True, True, False],
        "0.5": [True, False, False],
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.sampled_from([0.1, 0.25, 0.29, 0.5, 1.0]))
def test_threshold_is_the_largest_allowed(values, rate):
    threshold = threshold_below(torch.tensor(values).double(), rate)
    allowed = [t for t in range(9) if sum(v < t for v in values) / len(values) <= rate + 1e-9]
    if threshold is None:
        assert rate * len(values) < 1
    else:
        assert min(threshold, 8) == max(allowed) or (threshold == torch.inf and max(allowed) == 8)


def test_galleries_are_averaged_over_rates_that_all_have(monkeypatch):
    monkeypatch.setattr(module, "FPIRS", (0.5, 0.25))
    labels = torch.tensor([1, 2])

    def searches(nearest, n_others):
        found = search(lambda rows: torch.tensor(nearest)[rows], labels, labels)
        return found, torch.arange(1, 1 + n_others).double()

    first = searches([[0.5, 9], [9.0, 8.0]], 4)  # below 3: one of two
    second = searches([[0.5, 9], [9.0, 1.5]], 2)  # below 2: both
    found = tpir_at_fpir([first, second])
    assert found["tpir_at_fpir"] == {"0.5": 0.75, "0.25": None}
    assert found["tpir_at_fpir_interval"]["0.25"] is None
    assert tpir_at_fpir([first])["tpir_at_fpir"] == {"0.5": 0.5, "0.25": 0.5}


def test_a_single_person_has_no_non_mated_search():
    items = encoded(6, n_people=1)
    result = evaluate_codes({"still": items}, {"still": items})["still_to_still"]
    metrics = open_set_metrics(result)
    none = dict.fromkeys(("0.1", "0.01", "0.001"))
    assert metrics == {
        "tpir_at_fpir": {"codes": none, "real_valued": none},
        "tpir_at_fpir_interval": {"codes": none, "real_valued": none},
        "n_non_mated": 0,
    }


def test_a_lower_fpir_never_has_a_higher_tpir():
    items = encoded(200, 16)
    result = evaluate_codes({"still": items}, {"still": items})["still_to_still"]
    rates = open_set_metrics(result)["tpir_at_fpir"]
    for values in rates.values():
        assert values.pop("0.001") is None
        assert all(a >= b for a, b in itertools.pairwise(values.values()))
