import numpy as np
import pytest
import torch

from facereel.data import Clip, Still
from facereel.evaluation import Encoded
from facereel.evaluation import template_metrics as module
from facereel.evaluation.template_metrics import encode_templates, identification_metrics, verification_metrics
from facereel.evaluation.templates import TemplatePairs, TemplateSearches, template_of


def templates(people, n_bits=8):
    """A template each, numbered from 0; half of the codes of a person's templates are alike."""
    labels = torch.tensor(people)
    base = torch.rand(int(labels.max()) + 1, n_bits)
    scores = (base[labels] + torch.rand(len(labels), n_bits)) / 2
    items = [Still(person, f"{person}/{i}", f"{i}/1/x.jpg", i) for i, person in enumerate(people)]
    return Encoded(scores > 0.5, scores, labels, items)


def distance_of(encoded, kind):
    def codes(a, b):
        return float((encoded.codes[a] != encoded.codes[b]).sum())

    def real_valued(a, b):
        return float((encoded.scores[a].double() - encoded.scores[b].double()).norm())

    return {"codes": codes, "real_valued": real_valued}[kind]


def test_each_medium_of_a_template_counts_once():
    """Template 7: a video of 20 frames and two stills; template 3: a still."""
    clips = [Clip(0, "a/7", "a/7/1", tuple(range(20)))]
    stills = [Still(0, "a/7", "7/2/x.jpg", 20), Still(1, "b/3", "3/9/y.jpg", 21), Still(0, "a/7", "7/3/z.jpg", 22)]
    scores = {"clip": torch.tensor([[0.9, 0.1]]), "still": torch.tensor([[0.6, 0.2], [0.3, 0.7], [0.0, 0.9]])}
    labels = {"clip": torch.tensor([0]), "still": torch.tensor([0, 1, 0])}
    encoded = {
        kind: Encoded(scores[kind] > 0.5, scores[kind], labels[kind], items)
        for kind, items in (("clip", clips), ("still", stills))
    }
    found = encode_templates(encoded, np.array([3, 7]))
    assert torch.allclose(found.scores, torch.tensor([[0.3, 0.7], [0.5, 0.4]]))
    assert found.codes.tolist() == [[False, True], [False, False]]
    assert found.labels.tolist() == [1, 0]
    assert [template_of(item) for item in found.items] == [3, 7]


def slow_tmr(distance, pairs, same, fmr):
    genuine, impostor = (
        [distance(a, b) for (a, b), s in zip(pairs, same, strict=True) if s == kind] for kind in (1, 0)
    )
    if fmr * len(impostor) < 1:
        return None
    allowed = [t for t in {*genuine, *impostor} if sum(d <= t for d in impostor) / len(impostor) <= fmr]
    return max((sum(d <= t for d in genuine) / len(genuine) for t in allowed), default=0.0)


@pytest.mark.parametrize("n_bits", [3, 24])
def test_verification_agrees_with_a_loop(n_bits, monkeypatch):
    random = np.random.default_rng(0)
    people = random.integers(0, 8, 40)
    encoded = templates(people.tolist(), n_bits)
    pairs = random.integers(0, 40, (700, 2))
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    monkeypatch.setattr(module, "FMRS", (0.5, 0.1, 0.01, 0.001))
    task = TemplatePairs(np.arange(40), pairs, same, "pairs.txt", 3)
    for block in (2**16, 99):
        monkeypatch.setattr(module, "_BLOCK", block)
        found = verification_metrics(encoded, task)
        for kind in ("codes", "real_valued"):
            slow = {f"{fmr:g}": slow_tmr(distance_of(encoded, kind), pairs.tolist(), same, fmr) for fmr in module.FMRS}
            assert slow["0.001"] is None
            assert slow["0.01"] is not None
            assert found[kind]["tmr_at_fmr"] == pytest.approx(slow, abs=1e-12)
            for fmr, interval in found[kind]["tmr_at_fmr_interval"].items():
                assert interval is None if slow[fmr] is None else interval[0] <= slow[fmr] <= interval[1]
    assert (found["pairs"], found["n_pairs"], found["n_pairs_absent"]) == ("pairs.txt", 700, 3)
    assert (found["n_pairs_same"], found["n_templates"]) == (same.sum(), 40)


def slow_identification(distance, people, galleries, probes, ranks, fpirs):
    """Rank and TPIR of each gallery by counting, then their means; the expectation over orders of ties by drawing."""
    random = np.random.default_rng(0)
    closed, opened = {k: [] for k in ranks}, {f: [] for f in fpirs}
    for gallery in galleries:
        own = {people[g] for g in gallery}
        found, hits, others = {k: [] for k in ranks}, [], []
        for probe in probes:
            distances = {g: distance(probe, g) for g in gallery}
            if people[probe] not in own:
                others.append(min(distances.values()))
                continue
            tied = [people[g] == people[probe] for g in gallery if distances[g] == min(distances.values())]
            hits.append((min(distances.values()), sum(tied) / len(tied)))
            orders = [sorted(gallery, key=lambda g: (distances[g], random.random())) for _ in range(400)]
            for k in ranks:
                found[k].append(np.mean([any(people[g] == people[probe] for g in order[:k]) for order in orders]))
        for k in ranks:
            closed[k].append(np.mean(found[k]))
        for fpir in fpirs:
            allowed = [t for t, _ in hits if sum(d <= t for d in others) / len(others) <= fpir]
            values = [sum(hit for d, hit in hits if d <= t) / len(hits) for t in allowed]
            opened[fpir].append(max(values, default=0.0) if fpir * len(others) >= 1 else None)
    means = {f: None if None in values else float(np.mean(values)) for f, values in opened.items()}
    return {k: float(np.mean(values)) for k, values in closed.items()}, means


@pytest.mark.parametrize("n_bits", [3, 24])
def test_identification_agrees_with_a_loop(n_bits, monkeypatch):
    random = np.random.default_rng(1)
    # The second gallery has two templates of person 5; nobody has person 8.
    people = [*range(4), *range(4, 8), 5, *random.integers(0, 9, 30).tolist()]
    galleries = {"G1": np.arange(4), "G2": np.arange(4, 9)}
    probes = np.arange(9, 39)
    encoded = templates(people, n_bits)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 20)
    found = identification_metrics(encoded, TemplateSearches(np.arange(39), galleries, probes, 2))
    assert (found["n_probes"], found["n_templates_absent"]) == (30, 2)
    for name, gallery in galleries.items():
        n_mated = sum(people[probe] in {people[g] for g in gallery} for probe in probes)
        counts = {"n_templates": len(gallery), "n_mated": n_mated, "n_non_mated": 30 - n_mated}
        assert found["galleries"][name] == counts
    for kind in ("codes", "real_valued"):
        arguments = (people, [g.tolist() for g in galleries.values()], probes.tolist(), (1, 5, 10), (0.1, 0.01, 0.001))
        closed, opened = slow_identification(distance_of(encoded, kind), *arguments)
        assert found[kind]["rank"] == pytest.approx({str(k): v for k, v in closed.items()}, abs=0.02)
        assert found[kind]["tpir_at_fpir"] == pytest.approx({f"{f:g}": v for f, v in opened.items()}, abs=1e-9)
        low, high = found[kind]["rank_interval"]["1"]
        assert low <= found[kind]["rank"]["1"] <= high


def test_hashes_differ_with_the_content():
    names, pairs, same = np.array([1, 2]), np.array([[0, 1]]), np.array([True])
    hashes = {
        TemplatePairs(names, pairs, same, "a").sha256,
        TemplatePairs(names, pairs, ~same, "a").sha256,
        TemplatePairs(names + 1, pairs, same, "a").sha256,
        TemplateSearches(names, {"G1": pairs[0], "G2": pairs[0]}, pairs[0]).sha256,
        TemplateSearches(names, {"G1": pairs[0], "G2": pairs[0][:1]}, pairs[0]).sha256,
    }
    assert len(hashes) == 5
    assert TemplatePairs(names, pairs, same, "a").sha256 == TemplatePairs(names, pairs, same, "b", 4).sha256
