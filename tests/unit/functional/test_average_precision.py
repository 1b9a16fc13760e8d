import itertools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facereel.functional import (
    average_precision,
    distance_histograms,
    expected_recall_at_k,
    hamming_histograms,
    mean_average_precision,
)


def precision_of_order(relevant):
    """Average precision of one ranked list, by its definition."""
    found, total = 0, 0.0
    for rank, hit in enumerate(relevant, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / found


def all_orders(distances, relevant):
    """Every ranking that sorts by distance: the product of the permutations of each tied group."""
    groups = [[r for d, r in zip(distances, relevant, strict=True) if d == value] for value in sorted(set(distances))]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain(*orders))


def random_problem(n_queries=6, n_gallery=9, n_bits=3, n_people=3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.rand(n_queries, n_bits) > 0.5,
        torch.rand(n_gallery, n_bits) > 0.5,
        torch.randint(n_people, (n_queries,)),
        torch.randint(n_people, (n_gallery,)),
    )


def slow_map(problem, ties, exclude=None):
    query_codes, gallery_codes, query_labels, gallery_labels = problem
    scores = []
    for q in range(len(query_codes)):
        rows = [n for n in range(len(gallery_codes)) if exclude is None or not exclude[q, n]]
        distances = [int((query_codes[q] != gallery_codes[n]).sum()) for n in rows]
        relevant = [bool(query_labels[q] == gallery_labels[n]) for n in rows]
        if not any(relevant):
            continue
        if ties == "database_order":
            scores.append(
                precision_of_order([r for _, r in sorted(zip(distances, relevant, strict=True), key=lambda x: x[0])])
            )
            continue
        values = [precision_of_order(order) for order in all_orders(distances, relevant)]
        scores.append({"expected": sum(values) / len(values), "best": max(values), "worst": min(values)}[ties])
    return sum(scores) / len(scores)


@pytest.mark.parametrize("ties", ["expected", "best", "worst", "database_order"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_average_over_all_orders_of_ties(ties, seed):
    torch.manual_seed(seed)
    problem = random_problem(n_gallery=7)
    assert mean_average_precision(*problem, ties=ties) == pytest.approx(slow_map(problem, ties), abs=1e-12)


@pytest.mark.parametrize("ties", ["expected", "best", "worst", "database_order"])
def test_excluded_rows_count_as_absent(ties):
    problem = random_problem(n_gallery=8)
    as_rows = torch.tensor([0, 3, -1, 7, -1, 2])
    as_mask = torch.zeros(6, 8, dtype=torch.bool)
    for query, row in enumerate(as_rows.tolist()):
        as_mask[query, row] = row >= 0
    expected = slow_map(problem, ties, as_mask)
    assert mean_average_precision(*problem, ties=ties, exclude=as_rows) == pytest.approx(expected, abs=1e-12)
    assert mean_average_precision(*problem, ties=ties, exclude=as_mask) == pytest.approx(expected, abs=1e-12)


def test_best_and_worst_order_bound_the_expectation():
    problem = random_problem(n_queries=40, n_gallery=300, n_bits=8, n_people=5)
    values = [mean_average_precision(*problem, ties=ties) for ties in ("worst", "expected", "best")]
    assert values[0] < values[1] < values[2]
    assert 0 <= mean_average_precision(*problem, ties="database_order") <= 1


MODULE = sys.modules["facereel.functional.average_precision"]
# The ways to count, on a CPU and on other devices.
WAYS = ["_count_packed", "_count_by_products"]


@pytest.mark.parametrize("exclude", ["none", "rows", "mask"])
@pytest.mark.parametrize(("elements", "columns"), [(2**20, 2**10), (700, 64), (1, 7)])
@pytest.mark.parametrize("way", WAYS)
def test_histograms_do_not_depend_on_block_sizes(monkeypatch, exclude, elements, columns, way):
    monkeypatch.setattr(MODULE, "_count_packed", getattr(MODULE, way))
    monkeypatch.setattr(MODULE, "_CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(MODULE, "_BLOCK_COLUMNS", columns)
    monkeypatch.setattr(MODULE, "_PACKED_COLUMNS", columns)
    query_codes, gallery_codes, query_labels, gallery_labels = problem = random_problem(11, 300, 8, 5)
    query_labels[3] = -7  # nobody in the gallery
    given_exclude, mask = None, torch.zeros(11, 300, dtype=torch.bool)
    if exclude == "rows":
        given_exclude = torch.randint(-1, 300, (11,))
        for q, row in enumerate(given_exclude.tolist()):
            mask[q, row] |= row >= 0
    elif exclude == "mask":
        given_exclude = mask = torch.rand(11, 300) > 0.7
    items, relevant = torch.zeros(2, 11, 9, dtype=torch.int64)
    for q, n in itertools.product(range(11), range(300)):
        if not mask[q, n]:
            distance = int((query_codes[q] != gallery_codes[n]).sum())
            items[q, distance] += 1
            relevant[q, distance] += int(query_labels[q] == gallery_labels[n])
    found = hamming_histograms(*problem, given_exclude)
    assert torch.equal(found[0], items)
    assert torch.equal(found[1], relevant)


@pytest.mark.parametrize("n_bits", [1, 63, 64, 65, 255, 256, 300])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_words_of_64_bits_count_as_the_product(monkeypatch, n_bits, n_threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    problem = random_problem(7, 200, n_bits, 5)
    found = hamming_histograms(*problem)
    monkeypatch.setattr(MODULE, "_count_packed", MODULE._count_by_products)
    expected = hamming_histograms(*problem)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("way", WAYS)
def test_autocast_does_not_round_distances(monkeypatch, way):
    monkeypatch.setattr(MODULE, "_count_packed", getattr(MODULE, way))
    problem = random_problem(4, 30, 700, 3)
    expected = hamming_histograms(*problem)
    with torch.autocast("cpu", torch.bfloat16):
        found = hamming_histograms(*problem)
    assert torch.equal(found[0], expected[0])


def test_labels_may_have_different_integer_types():
    query_codes, gallery_codes, query_labels, gallery_labels = problem = random_problem()
    mixed = (query_codes, gallery_codes, query_labels.int(), gallery_labels)
    assert mean_average_precision(*mixed) == mean_average_precision(*problem)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_no_queries_or_no_gallery(shape):
    items, relevant = hamming_histograms(*random_problem(*shape))
    assert items.shape == relevant.shape == (shape[0], 4)
    assert not items.any()
    assert math.isnan(mean_average_precision(*random_problem(*shape)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=7))
def test_real_valued_ranking_ties_exactly_equal_distances(items):
    distances = torch.tensor([[d / 7 for d, _ in items]])
    relevant = torch.tensor([[r for _, r in items]])
    result = average_precision(*distance_histograms(distances, relevant))
    if not relevant.any():
        assert result.isnan().all()
        return
    values = [precision_of_order(order) for order in all_orders(*map(list, zip(*items, strict=True)))]
    assert result.item() == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_real_valued_ranking_skips_excluded_items():
    distances, relevant = torch.rand(4, 9), torch.rand(4, 9) > 0.5
    exclude = torch.zeros(4, 9, dtype=torch.bool)
    exclude[:, [1, 5]] = True
    kept = [0, 2, 3, 4, 6, 7, 8]
    expected = average_precision(*distance_histograms(distances[:, kept], relevant[:, kept]))
    result = average_precision(*distance_histograms(distances, relevant, exclude))
    assert torch.allclose(result, expected, equal_nan=True)


def test_real_valued_ranking_rejects_a_numeric_mask():
    with pytest.raises(ValueError, match="exclude must be bool"):
        distance_histograms(torch.rand(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0, 1, 0]]))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_expected_recall_is_the_fraction_of_orders_with_a_hit(k):
    query_codes, gallery_codes, query_labels, gallery_labels = problem = random_problem(n_gallery=7, n_bits=2)
    result = expected_recall_at_k(*hamming_histograms(*problem), k)
    for q in range(len(query_codes)):
        distances = [int((query_codes[q] != code).sum()) for code in gallery_codes]
        relevant = (gallery_labels == query_labels[q]).tolist()
        hits = [any(order[:k]) for order in all_orders(distances, relevant)]
        assert result[q].item() == pytest.approx(sum(hits) / len(hits), abs=1e-9)


def test_queries_without_a_match_are_skipped():
    codes = torch.tensor([[True, False], [False, True]])
    value = mean_average_precision(codes, codes, torch.tensor([0, 9]), torch.tensor([0, 1]))
    assert value == 1.0
    assert math.isnan(mean_average_precision(codes, codes, torch.tensor([8, 9]), torch.tensor([0, 1])))


def test_large_galleries_keep_full_precision():
    """The closed form subtracts harmonic numbers; against the sum over places, in a gallery of 200,000."""
    n_items, n_relevant = torch.tensor([[120_000, 79_990, 10]]), torch.tensor([[3, 5, 2]])
    total, before, found = 0.0, 0, 0
    for n, r in zip(n_items[0].tolist(), n_relevant[0].tolist(), strict=True):
        total += sum(r / n * (found + 1 + (i - 1) * (r - 1) / (n - 1)) / (before + i) for i in range(1, n + 1))
        before, found = before + n, found + r
    assert average_precision(n_items, n_relevant).item() == pytest.approx(total / found, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_codes": torch.zeros(2, 3)}, "query_codes must be bool"),
        ({"gallery_codes": torch.zeros(2, 4, dtype=torch.bool)}, "differ in length"),
        ({"gallery_labels": torch.zeros(5, dtype=torch.int64)}, "gallery_labels must be"),
        ({"query_labels": torch.zeros(2)}, "query_labels must be integer"),
        ({"ties": "random"}, "ties must be one of"),
        ({"exclude": torch.zeros(1, dtype=torch.int64)}, "exclude must be"),
        ({"exclude": torch.zeros(2)}, "exclude must be"),
        ({"exclude": torch.tensor([0, 2])}, "the gallery has 2 rows"),
        ({"exclude": torch.zeros(2, 5, dtype=torch.bool)}, "exclude must be"),
    ],
)
def test_wrong_input_raises(change, message):
    codes, labels = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    arguments = {"query_codes": codes, "gallery_codes": codes, "query_labels": labels, "gallery_labels": labels}
    with pytest.raises(ValueError, match=message):
        mean_average_precision(**{**arguments, **change})
