import math

import pytest
import torch

from facereel.data import Clip, Still
from facereel.evaluation import Encoded, evaluate_codes
from facereel.evaluation import metrics as metrics_module
from facereel.evaluation.metrics import mean_map
from facereel.functional import expected_recall_at_k, hamming_histograms


def encoded(n, n_bits=10, n_people=6, prefix="a", sources=None):
    labels = torch.randint(n_people, (n,))
    scores = torch.rand(n, n_bits)
    keys = [f"{prefix}{i}" for i in range(n)]
    items = [
        Still(person, source, key, 0)
        for person, key, source in zip(labels.tolist(), keys, sources or keys, strict=True)
    ]
    return Encoded(scores > 0.5, scores, labels, items)


def slow_float_map(query, gallery, values):
    total = []
    for q in range(len(query)):
        order = sorted(
            (float(((query.scores[q] - values[n]) ** 2).sum()), n)
            for n in range(len(gallery))
            if query.items[q].source != gallery.items[n].source
        )
        hits = [bool(gallery.labels[n] == query.labels[q]) for _, n in order]
        if any(hits):
            total.append(sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / sum(hits))
    return sum(total) / len(total)


def slow_hits(query, gallery):
    """Recall at 1 and 10, each the mean over random orders of ties, and precision within 2 bits, by counting."""
    totals = []
    for q in range(len(query)):
        kept = [n for n in range(len(gallery)) if query.items[q].source != gallery.items[n].source]
        ranked = sorted((int((query.codes[q] != gallery.codes[n]).sum()), n) for n in kept)
        match = {n: bool(gallery.labels[n] == query.labels[q]) for n in kept}
        if not any(match.values()):
            continue
        recalls = []
        for k in (1, 10):
            last = ranked[min(k, len(ranked)) - 1][0]
            sure = [n for distance, n in ranked if distance < last]
            tied = [n for distance, n in ranked if distance == last]
            places, wrong = min(k, len(ranked)) - len(sure), sum(not match[n] for n in tied)
            miss = math.comb(wrong, places) / math.comb(len(tied), places)
            recalls.append(1.0 if any(match[n] for n in sure) else 1 - miss)
        near = [match[n] for distance, n in ranked if distance <= 2]
        totals.append((*recalls, sum(near) / len(near) if near else 0.0))
    return [sum(column) / len(totals) for column in zip(*totals, strict=True)]


@pytest.mark.parametrize("n_bits", [1, 2, 3, 10, 48])
@pytest.mark.parametrize("n_sources", [None, 7])
def test_recall_and_precision_agree_with_a_loop(n_bits, n_sources):
    sources = None if n_sources is None else [f"s{i % n_sources}" for i in range(80)]
    query, gallery = (
        encoded(30, n_bits, sources=sources and sources[:30]),
        encoded(80, n_bits, prefix="b", sources=sources),
    )
    query.labels[:3] = 99  # without a match
    metrics = evaluate_codes({"still": query}, {"clip": gallery})["still_to_clip"].metrics
    names = ("recall_at_1", "recall_at_10", "precision_at_radius_2")
    assert [metrics[name] for name in names] == pytest.approx(slow_hits(query, gallery), abs=1e-12)


def test_own_sources_are_excluded():
    sources = [f"s{i % 7}" for i in range(40)]
    items = encoded(40, n_bits=4, sources=sources)
    result = evaluate_codes({"clip": items}, {"clip": items})["clip_to_clip"]
    exclude = torch.tensor([[a == b for b in sources] for a in sources])
    n_items, n_relevant = hamming_histograms(items.codes, items.codes, items.labels, items.labels, exclude)
    assert torch.equal(result.n_items, n_items)
    has_match = n_relevant.sum(dim=1) > 0
    for k in (1, 10):
        expected = expected_recall_at_k(n_items, n_relevant, k)[has_match].mean().item()
        assert result.metrics[f"recall_at_{k}"] == pytest.approx(expected, abs=1e-12)
    assert result.metrics["mAP_real_valued"] == pytest.approx(slow_float_map(items, items, items.scores), abs=1e-9)
    asymmetric = slow_float_map(items, items, items.codes.float())
    assert result.metrics["mAP_asymmetric"] == pytest.approx(asymmetric, abs=0.02)  # equal codes tie; the loop does not


def slow_expected_map(query, gallery, key):
    """Expected over ties of `key`, place by place: the chance of a match times the precision there if it is one."""
    total = []
    for q in range(len(query)):
        kept = [n for n in range(len(gallery)) if query.items[q].source != gallery.items[n].source]
        keys = key(q, kept)
        matches = {n for n in kept if gallery.labels[n] == query.labels[q]}
        score, before, found = 0.0, 0, 0
        for value in sorted(set(keys.values())):
            group = {n for n in kept if keys[n] == value}
            n, r = len(group), len(group & matches)
            for place in range(1, n + 1):
                ahead = (place - 1) * (r - 1) / max(1, n - 1)
                score += r / n * (found + 1 + ahead) / (before + place)
            before, found = before + n, found + r
        if matches:
            total.append(score / len(matches))
    return sum(total) / len(total)


@pytest.mark.parametrize("rerank_k", [1, 3, 10, 33, 1000])
@pytest.mark.parametrize("n_bits", [4, 12, 48])
def test_reranked_metrics_agree_with_a_loop(n_bits, rerank_k):
    sources = [f"s{i % 7}" for i in range(40)]
    items = encoded(40, n_bits=n_bits, sources=sources)
    # Eighths, whose sums are exact. Of long codes near a half: by scores the nearest are farther than many bits.
    groups = torch.randint(2, (6, n_bits))[torch.randint(6, (40,))] ^ (torch.rand(40, n_bits) < 0.05)
    items.scores = torch.randint(9, (40, n_bits)) / 8 if n_bits < 48 else 0.375 + groups / 4
    items.codes = items.scores > 0.5

    def key(q, kept):
        """By scores in front, by bits behind."""
        hamming = {n: int((items.codes[q] != items.codes[n]).sum()) for n in kept}
        asymmetric = {n: float((items.scores[q] - items.codes[n].float()).square().sum()) for n in kept}
        radius = sorted(hamming.values())[min(rerank_k, len(kept)) - 1]
        return {n: (0, asymmetric[n]) if hamming[n] <= radius else (1, hamming[n]) for n in kept}

    (result,) = evaluate_codes({"clip": items}, {"clip": items}, rerank_k=rerank_k).values()
    assert result.metrics["mAP_reranked"] == pytest.approx(slow_expected_map(items, items, key), abs=1e-12)
    if rerank_k >= 40:
        assert result.metrics["mAP_reranked"] == result.metrics["mAP_asymmetric"]


@pytest.mark.parametrize("rerank_k", [1, 5, 1000])
def test_reranking_by_binary_scores_changes_nothing(rerank_k):
    query, gallery = encoded(30), encoded(80, prefix="b")
    query.scores = query.codes.float()
    metrics = evaluate_codes({"still": query}, {"clip": gallery}, rerank_k=rerank_k)["still_to_clip"].metrics
    assert metrics["mAP_reranked"] == pytest.approx(metrics["mAP"], abs=1e-12)


def test_chunk_size_does_not_matter(monkeypatch):
    query, gallery = encoded(30), encoded(80, prefix="b")
    whole = evaluate_codes({"still": query}, {"clip": gallery}, rerank_k=5)["still_to_clip"].metrics
    monkeypatch.setattr(metrics_module, "_CHUNK_ELEMENTS", 200)
    assert evaluate_codes({"still": query}, {"clip": gallery}, rerank_k=5)["still_to_clip"].metrics == whole


def test_perfect_and_useless_codes():
    labels = torch.arange(20) % 4
    bits = torch.tensor([[False, False], [False, True], [True, False], [True, True]])
    items = [Still(int(y), f"q{i}", f"q{i}", 0) for i, y in enumerate(labels)]
    other = [Still(int(y), f"g{i}", f"g{i}", 0) for i, y in enumerate(labels)]
    perfect = Encoded(bits[labels], bits[labels].float(), labels, items)
    gallery = Encoded(bits[labels], bits[labels].float(), labels, other)
    metrics = evaluate_codes({"still": perfect}, {"still": gallery})["still_to_still"].metrics
    assert metrics["mAP"] == metrics["mAP_worst"] == metrics["mAP_real_valued"] == metrics["recall_at_1"] == 1.0
    same = torch.zeros(20, 2, dtype=torch.bool)
    useless = Encoded(same, same.float(), labels, other)
    query = Encoded(same, same.float(), labels, items)
    metrics = evaluate_codes({"still": query}, {"still": useless})["still_to_still"].metrics
    assert metrics["mAP_best"] == 1.0
    assert metrics["mAP"] < 0.5
    assert metrics["recall_at_1"] == pytest.approx(0.25)


def test_queries_without_a_match_are_counted_and_excluded():
    query, gallery = encoded(12), encoded(20, prefix="b")
    query.labels[:5] = 99
    result = evaluate_codes({"still": query}, {"clip": gallery})["still_to_clip"]
    assert result.metrics["n_queries"] == 12
    assert result.metrics["n_queries_without_match"] == 5
    assert result.precisions["mAP"][:5].isnan().all()
    rest = Encoded(query.codes[5:], query.scores[5:], query.labels[5:], query.items[5:])
    alone = evaluate_codes({"still": rest}, {"clip": gallery})["still_to_clip"].metrics
    for name in ("mAP", "mAP_best", "mAP_real_valued", "mAP_stable_order", "recall_at_1", "recall_at_10"):
        assert result.metrics[name] == pytest.approx(alone[name], abs=1e-12)


def test_task_without_queries_or_matches_is_omitted():
    query, gallery = encoded(5), encoded(5, prefix="b")
    assert set(evaluate_codes({"still": query}, {"clip": gallery})) == {"still_to_clip"}
    query.labels[:] = 99
    assert evaluate_codes({"still": query}, {"clip": gallery}) == {}


def test_checkpoint_metric_is_the_mean_over_tasks():
    query, gallery = {"still": encoded(9), "clip": encoded(7, prefix="c")}, {"clip": encoded(20, prefix="b")}
    results = evaluate_codes(query, gallery)
    for name, real_valued in (("mAP", False), ("mAP_real_valued", True)):
        expected = sum(result.metrics[name] for result in results.values()) / 2
        assert mean_map(query, gallery, real_valued) == pytest.approx(expected, abs=1e-12)
    assert mean_map({}, gallery, False) is None


def test_only_the_item_itself_or_its_clip_is_excluded():
    clips = [Clip(0, "v", "v#0", (0, 1)), Clip(0, "v", "v#1", (2,)), Clip(1, "w", "w", (3,))]
    stills = [Still(0, "v", "frame", 1), Still(1, "x", "still", 4)]

    def side(items):
        scores = torch.rand(len(items), 8)
        return Encoded(scores > 0.5, scores, torch.tensor([item.person for item in items]), items)

    queries = {"clip": side(clips), "still": side(stills)}
    results = evaluate_codes(queries, queries, "item")
    assert results["still_to_clip"].exclude.tolist() == [[True, False, False], [False] * 3]
    assert results["clip_to_clip"].exclude.tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert results["clip_to_still"].exclude.tolist() == [[True, False], [False] * 2, [False] * 2]
    by_source = evaluate_codes(queries, queries)
    assert set(by_source) == {"still_to_clip", "clip_to_still"}
    assert by_source["still_to_clip"].exclude.tolist() == [[True, True, False], [False] * 3]
