import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc

from facereel.data import Clip, Still
from facereel.evaluation import Encoded, Pair, verification
from facereel.evaluation.verification import best_threshold, fold_accuracies, intervals, verify, verify_pairs


def slow(distances, same, fold):
    """Everything from its definition, with loops."""
    pairs = list(zip(distances, same, fold, strict=True))

    def share_right(of, threshold):
        return sum((d <= threshold) == s for d, s, _ in of) / len(of)

    accuracies = []
    for number in sorted(set(fold)):
        others = [pair for pair in pairs if pair[2] != number]
        values = sorted({d for d, _, _ in others})
        candidates = [-float("inf")]
        candidates += [(a + b) / 2 for a, b in itertools.pairwise(values)]
        candidates += [float("inf")]
        best = candidates[0]
        for candidate in candidates:
            if share_right(others, candidate) > share_right(others, best) + 1e-12:
                best = candidate
        accuracies.append(share_right([pair for pair in pairs if pair[2] == number], best))
    mean = sum(accuracies) / len(accuracies)
    deviation = (sum((value - mean) ** 2 for value in accuracies) / (len(accuracies) - 1)) ** 0.5

    near, far = [d for d, s, _ in pairs if s], [d for d, s, _ in pairs if not s]
    wins = sum(1.0 if a < b else 0.5 if a == b else 0.0 for a in near for b in far)
    curve = [(0.0, 0.0)]
    curve += [
        (sum(d <= value for d in far) / len(far), sum(d <= value for d in near) / len(near))
        for value in sorted(set(distances))
    ]
    eer = None
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if eer is None and x1 >= 1 - y1:
            low, high = 0.0, 1.0  # bisect for where the line crosses fpr = 1 - tpr
            for _ in range(80):
                t = (low + high) / 2
                if x0 + t * (x1 - x0) < 1 - (y0 + t * (y1 - y0)):
                    low = t
                else:
                    high = t
            eer = x0 + low * (x1 - x0)
    return {"accuracy": mean, "accuracy_std": deviation, "auc": wins / (len(near) * len(far)), "eer": eer}, curve


@st.composite
def pair_lists(draw):
    n = draw(st.integers(6, 30))
    largest = draw(st.sampled_from([1, 4, 50]))  # few values make many ties
    distances = draw(st.lists(st.integers(0, largest), min_size=n, max_size=n))
    same = [True, False, *draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))]
    fold = [3, 7, *draw(st.lists(st.sampled_from([3, 7, 8]), min_size=n - 2, max_size=n - 2))]
    return distances, same, fold


@settings(max_examples=200, deadline=None)
@given(pair_lists())
def test_metrics_equal_the_slow_reference(pairs):
    found = verify(*(torch.tensor(values) for values in pairs))
    expected, curve = slow(*pairs)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    roc = list(zip(found["roc"]["fpr"], found["roc"]["tpr"], strict=True))
    assert roc[0] == (0, 0)
    assert roc[-1] == (1, 1)
    # Every point of the full curve lies on the one with fewer points, which has no three points on a line.
    for x, y in curve:
        assert any(on_line(a, (x, y), b) for a, b in itertools.pairwise(roc))
    for a, b, c in zip(roc, roc[1:], roc[2:], strict=False):
        assert not on_line(a, b, c)


@settings(max_examples=50, deadline=None)
@given(pair_lists())
def test_auc_equals_torchmetrics(pairs):
    distances, same, fold = (torch.tensor(values) for values in pairs)
    # Similarities in 0..1: torchmetrics applies a sigmoid to others.
    similarities = 1 - distances.double() / 50
    expected = binary_auroc(similarities, same.long()).item()
    assert verify(distances, same, fold)["auc"] == pytest.approx(expected, abs=1e-6)  # torchmetrics' is float32


def on_line(a, point, b):
    inside = a[0] - 1e-9 <= point[0] <= b[0] + 1e-9 and a[1] - 1e-9 <= point[1] <= b[1] + 1e-9
    return inside and abs((b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])) < 1e-9


@settings(max_examples=50, deadline=None)
@given(pair_lists())
def test_metrics_depend_on_the_order_of_distances_but_not_of_pairs(pairs):
    distances, same, fold = (torch.tensor(values) for values in pairs)
    order = torch.randperm(len(distances))
    assert verify(distances, same, fold) == verify(distances[order], same[order], fold[order])
    # A scale that keeps the order: midpoints keep to their places.
    assert verify(distances, same, fold) == verify(distances * 4.0, same, fold)


def test_separated_pairs_are_all_correct():
    same = torch.tensor([True, False] * 10)
    distances = torch.where(same, 0.0, 1.0) + 0.1 * torch.rand(20)
    found = verify(distances, same, torch.arange(20) // 4)
    assert (found["accuracy"], found["accuracy_std"], found["eer"], found["auc"]) == (1, 0, 0, 1)
    assert found["roc"] == {"fpr": [0, 0, 1], "tpr": [0, 1, 1]}
    turned = verify(-distances, same, torch.arange(20) // 4)
    assert (turned["eer"], turned["auc"]) == (1, 0)


def test_random_distances_give_about_one_half():
    same = torch.arange(5000) % 2 == 0
    found = verify(torch.rand(5000), same, torch.arange(5000) // 500)
    for name in ("accuracy", "eer", "auc"):
        assert abs(found[name] - 0.5) < 0.03, name
    equal = verify(torch.ones(10), same[:10], torch.arange(10) // 5)
    assert (equal["eer"], equal["auc"]) == (0.5, 0.5)
    assert equal["roc"] == {"fpr": [0, 1], "tpr": [0, 1]}


def test_the_threshold_of_a_fold_does_not_read_that_fold():
    # Each fold alone is separated, at a distance that is wrong for the other.
    distances = torch.tensor([1, 3, 5, 9])
    same = torch.tensor([True, False, True, False])
    assert fold_accuracies(distances, same, torch.tensor([1, 1, 2, 2])).tolist() == [0.5, 0.5]


@settings(max_examples=50, deadline=None)
@given(pair_lists())
def test_inverting_the_answers_of_a_fold_inverts_its_accuracy(pairs):
    distances, same, fold = (torch.tensor(values) for values in pairs)
    before = fold_accuracies(distances, same, fold)
    for place, number in enumerate(fold.unique()):
        after = fold_accuracies(distances, torch.where(fold == number, ~same, same), fold)
        assert after[place].item() == pytest.approx(1 - before[place].item())


def test_smallest_of_equally_good_thresholds_is_chosen():
    # 2 and 6 are both right in three of four.
    assert best_threshold(torch.tensor([1, 3, 5, 7]), torch.tensor([True, False, True, False])) == 2
    # Nothing is better than to accept none, or all.
    assert best_threshold(torch.tensor([1, 2]), torch.tensor([False, False])) == -float("inf")
    assert best_threshold(torch.tensor([1, 2]), torch.tensor([True, True])) == float("inf")


def test_a_pair_at_the_threshold_is_accepted():
    # Fold 2 puts the threshold at 2, where fold 1 has a pair.
    distances, same = torch.tensor([2, 9, 1, 3]), torch.tensor([True, False, True, False])
    assert fold_accuracies(distances, same, torch.tensor([1, 1, 2, 2])).tolist()[0] == 1


def test_distances_are_between_the_listed_clips():
    codes = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    scores = torch.tensor([[1.0, 2.0, -3.0], [1.0, -2.0, 3.0], [-1.0, -1.0, 1.0]])
    clips = [Clip(n, name, name, (n,)) for n, name in enumerate(["A/0", "B/0", "C/0"])]
    pairs = [Pair(1, "C/0", "A/0", False), Pair(1, "A/0", "B/0", True), Pair(2, "B/0", "C/0", True)]
    pairs.append(Pair(2, "A/0", "C/0", False))
    found = verify_pairs({"clip": Encoded(codes, scores, torch.arange(3), clips)}, pairs)
    assert found.hamming.tolist() == [3, 2, 1, 3]
    assert found.distance.tolist() == [4 + 9 + 16, 16 + 36, 4 + 1 + 4, 4 + 9 + 16]
    fold = torch.tensor([1, 1, 2, 2])
    same = torch.tensor([False, True, True, False])
    people = torch.tensor([[2, 0], [0, 1], [1, 2], [0, 2]])
    assert found.metrics == {
        "codes": {**verify(found.hamming, same, fold), **intervals(found.hamming, same, fold, people)},
        "real_valued": {**verify(found.distance, same, fold), **intervals(found.distance, same, fold, people)},
    }


def test_pair_may_consist_of_a_clip_and_a_still():
    codes = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    scores = codes.double()
    labels = torch.arange(3)
    clips = [Clip(0, "A/0", "A/0", (0,)), Clip(1, "B/0", "B/0", (1,))]
    items = {
        "clip": Encoded(codes[:2], scores[:2], labels[:2], clips),
        "still": Encoded(codes[2:], scores[2:], labels[2:], [Still(2, "C/0", "C/0", 2)]),
    }
    pairs = [Pair(1, "C/0", "A/0", False), Pair(2, "A/0", "B/0", True), Pair(2, "B/0", "C/0", False)]
    found = verify_pairs(items, pairs)
    assert found.hamming.tolist() == found.distance.tolist() == [3, 2, 1]


def slow_tmr(distances, same, rate):
    """Of all thresholds whose false match rate is at most `rate` the true match rate of the largest."""
    near, far = (
        [d for d, s in zip(distances, same, strict=True) if s],
        [d for d, s in zip(distances, same, strict=True) if not s],
    )
    allowed = [t for t in [-1, *sorted(set(distances))] if sum(d <= t for d in far) * round(1 / rate) <= len(far)]
    return sum(d <= allowed[-1] for d in near) / len(near)


@pytest.mark.parametrize("largest", [3, 40, 10_000])
def test_true_match_rates_equal_the_slow_reference(largest):
    draw = random.Random(largest)
    for n_false in (9, 10, 99, 100, 101, 999, 1000):
        same = [True] * 30 + [False] * n_false
        distances = [draw.randrange(largest) // (2 if s else 1) for s in same]
        found = verify(torch.tensor(distances), torch.tensor(same), torch.arange(len(same)) % 2)["tmr_at_fmr"]
        assert list(found) == ["0.1", "0.01", "0.001", "0.0001", "1e-05", "1e-06"]
        for name, value in found.items():
            if n_false < round(1 / float(name)):
                assert value is None
            else:
                assert value == pytest.approx(slow_tmr(distances, same, float(name)))


def test_true_matches_tied_with_too_many_false_ones_do_not_count():
    # One of ten false matches is allowed; two tie at 5.
    distances = torch.tensor([4, 5, 6, *[5] * 2, *[9] * 8])
    same = torch.tensor([True] * 3 + [False] * 10)
    assert verify(distances, same, torch.arange(13) % 2)["tmr_at_fmr"]["0.1"] == pytest.approx(1 / 3)
    distances[4] = 6
    assert verify(distances, same, torch.arange(13) % 2)["tmr_at_fmr"]["0.1"] == pytest.approx(2 / 3)


def people_and_pairs(n_people=14, n_pairs=80, seed=0):
    """Pairs of a few people, who are easy or hard to tell apart; people 100 and 101 are in one pair."""
    draw = random.Random(seed)
    hard = [draw.random() for _ in range(n_people)]
    people, same, distances = [], [], []
    for i in range(n_pairs):
        a, b = draw.sample(range(n_people), 2)
        b = a if i % 2 else b
        people.append((a, b))
        same.append(a == b)
        distances.append(round(10 * (hard[a] + draw.random() + (a != b))))
    return [*people, (100, 101)], [*same, False], [*distances, 12], [i % 4 for i in range(n_pairs + 1)]


def test_intervals_equal_a_loop_over_draws_of_people():
    people, same, distances, fold = people_and_pairs()
    found = intervals(
        torch.tensor(distances), torch.tensor(same), torch.tensor(fold), torch.tensor(people), n_draws=3_000
    )
    # 100 and 101 are in no other pair, so that they are drawn together.
    units = [*range(14), "100 and 101"]
    pair_units = [(a, b) if a < 100 else ("100 and 101",) * 2 for a, b in people]
    draw = random.Random(1)
    values = {name: [] for name in ("accuracy", "eer", "auc", "0.1")}
    for _ in range(600):
        drawn = draw.choices(units, k=len(units))
        copies = []
        for pair, (a, b) in enumerate(pair_units):
            copies += [pair] * (drawn.count(a) * (1 if a == b else drawn.count(b)))
        arguments = [[of[i] for i in copies] for of in (distances, same, fold)]
        expected, _ = slow(*arguments)
        values["0.1"].append(slow_tmr(arguments[0], arguments[1], 0.1))
        for name, value in expected.items():
            if name in values:
                values[name].append(value)
    for name, of_draws in values.items():
        ends = found["tmr_at_fmr_interval"][name] if name == "0.1" else found[f"{name}_interval"]
        assert ends == pytest.approx(np.quantile(of_draws, [0.025, 0.975]).tolist(), abs=0.03), name
    assert found["tmr_at_fmr_interval"]["0.01"] is None


def test_pairs_without_shared_people_are_drawn_as_pairs():
    """Then an interval is that of a proportion of independent pairs."""
    n = 400
    same = torch.arange(n) % 2 == 0
    wrong = torch.arange(n) % 10 < 2  # a fifth of each kind
    distances = (same == wrong).long()
    people = torch.arange(2 * n).view(n, 2)
    people[same, 1] = people[same, 0]
    low, high = intervals(distances, same, torch.arange(n) // 40, people)["accuracy_interval"]
    assert (high - low) / (2 * 1.96) == pytest.approx(math.sqrt(0.2 * 0.8 / n), rel=0.15)
    # Were they all of few people, it would be wider.
    few = intervals(distances, same, torch.arange(n) // 40, people % 40)["accuracy_interval"]
    assert few[1] - few[0] > 1.3 * (high - low)


def test_undefined_intervals_are_none(monkeypatch):
    # Without the only pair of one person, or of two, a draw has no rates.
    distances, same, fold = torch.tensor([1, 2]), torch.tensor([True, False]), torch.tensor([1, 2])
    found = intervals(distances, same, fold, torch.tensor([[0, 0], [1, 2]]))
    assert found["auc_interval"] == [1, 1]
    assert set(found["tmr_at_fmr_interval"].values()) == {None}
    monkeypatch.setattr(verification, "MOST_PAIRS", 1)
    found = intervals(distances, same, fold, torch.tensor([[0, 0], [1, 2]]))
    assert set(found.pop("tmr_at_fmr_interval").values()) == {None}
    assert found == {"accuracy_interval": None, "eer_interval": None, "auc_interval": None}
