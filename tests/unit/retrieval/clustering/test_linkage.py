import itertools

import numpy as np
import pytest

from facereel.retrieval.clustering import linkage as cluster
from facereel.retrieval.clustering.linkage import Span, cluster_tracks, nearest, simultaneous


def people_codes(n_people: int, each: int, n_bits: int, flips: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) bool, each bit of a person's code flipped now and then, and (N,) the person; mixed."""
    random = np.random.default_rng(seed)
    person = random.permutation(np.repeat(np.arange(n_people), each))
    codes = (random.random((n_people, n_bits)) < 0.5)[person]
    return codes ^ (random.random(codes.shape) < flips), person


def slow(codes, threshold, spans=None, people=None) -> list[int]:
    """Average linkage by its definition: all pairs of groups, all pairs of tracks, again for every joining."""
    n = len(codes)
    people = people or [None] * n
    groups: list[list[int]] = []
    for track in range(n):
        same = [group for group in groups if people[track] is not None and people[group[0]] == people[track]]
        if same:
            same[0].append(track)
        else:
            groups.append([track])

    def at_once(a, b):
        if spans is None or None in (spans[a].start_s, spans[b].start_s) or spans[a].video != spans[b].video:
            return False
        return max(spans[a].start_s, spans[b].start_s) <= min(spans[a].end_s, spans[b].end_s)

    def may_join(a, b):
        names = {people[track] for track in a + b} - {None}
        return len(names) < 2 and not any(at_once(x, y) for x in a for y in b)

    while True:
        best = None
        for i, j in itertools.combinations(range(len(groups)), 2):
            if may_join(groups[i], groups[j]):
                differing = sum(int((codes[x] != codes[y]).sum()) for x in groups[i] for y in groups[j])
                distance = differing / (len(groups[i]) * len(groups[j]) * codes.shape[1])
                if distance <= threshold and (best is None or distance < best[0]):
                    best = distance, i, j
        if best is None:
            break
        _, i, j = best
        groups[i] += groups.pop(j)
    groups.sort(key=lambda group: (-len(group), min(group)))
    numbers = [0] * n
    for number, group in enumerate(groups, 1):
        for track in group:
            numbers[track] = number
    return numbers


def random_spans(n: int, seed: int) -> list[Span]:
    random = np.random.default_rng(seed)
    spans = []
    for _ in range(n):
        start = float(random.integers(0, 30))
        spans.append(Span(f"v{random.integers(3)}", start, start + float(random.integers(0, 5))))
    spans[0] = Span("v0", None, None)
    return spans


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_bits", [8, 13, 64])
@pytest.mark.parametrize("kept_apart", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_equals_average_linkage_by_definition(seed, n_bits, kept_apart, named):
    # 8 bits give equal codes and equal distances, 13 are padded.
    codes, person = people_codes(6, 4, n_bits, 0.15, seed)
    spans = random_spans(len(codes), seed) if kept_apart else None
    random = np.random.default_rng(seed)
    people = [f"p{p}" if random.random() < 0.3 else None for p in person] if named else None
    packed = np.packbits(codes, axis=1)
    for threshold in (0.0, 0.2, 0.3, 0.45, 1.0):
        found = cluster_tracks(packed, n_bits, threshold, spans=spans, people=people)
        assert found.tolist() == slow(codes, threshold, spans, people)


def test_people_far_apart_are_found_with_few_candidates():
    codes, person = people_codes(40, 30, 256, 0.1, 0)
    found = cluster_tracks(np.packbits(codes, axis=1), 256, 0.3, n_nearest=5)
    assert found.max() == 40
    assert len(set(zip(found.tolist(), person.tolist(), strict=True))) == 40


def test_inverted_file_gives_the_same_people(monkeypatch):
    monkeypatch.setattr(cluster, "_FLAT", 100)
    codes, person = people_codes(100, 10, 256, 0.1, 0)
    found = cluster_tracks(np.packbits(codes, axis=1), 256, 0.3)
    assert len(set(zip(found.tolist(), person.tolist(), strict=True))) == found.max() == 100


def test_equal_codes_are_one_group_with_few_candidates():
    codes = np.repeat(np.packbits(people_codes(2, 1, 64, 0.0, 0)[0], axis=1), 300, axis=0)
    assert cluster_tracks(codes, 64, 0.1, n_nearest=3).tolist() == [1] * 300 + [2] * 300


def test_tracks_with_the_same_name_are_always_one_group():
    codes = np.array([[0b00000000], [0b11111111], [0b11111110]], np.uint8)
    spans = [Span("a", 0.0, 2.0), Span("a", 1.0, 3.0), Span("a", 9.0, 9.5)]
    assert cluster_tracks(codes, 8, 0.2, spans=spans).tolist() == [2, 1, 1]
    assert cluster_tracks(codes, 8, 0.2, spans=spans, people=["Ada", "Ada", None]).tolist() == [1, 1, 2]


def test_track_between_two_names_joins_one():
    codes = np.array([[0b11110000], [0b11110001], [0b11110000]], np.uint8)
    assert cluster_tracks(codes, 8, 0.5, people=["Ada", "Bob", None]).tolist() == [1, 2, 1]


def test_simultaneous_equals_all_pairs():
    spans = random_spans(60, 1)
    expected = {
        (a, b)
        for a, b in itertools.combinations(range(60), 2)
        if spans[a].start_s is not None
        and spans[a].video == spans[b].video
        and spans[a].start_s <= spans[b].end_s
        and spans[b].start_s <= spans[a].end_s
    }
    found = list(simultaneous(spans))
    assert {(min(pair), max(pair)) for pair in found} == expected
    assert len(found) == len(expected)


def test_nearest_equals_all_pairs():
    codes = np.unique(people_codes(20, 5, 13, 0.1, 0)[0], axis=0)
    differing = (codes[:, None] != codes[None]).sum(axis=2)
    found = nearest(np.packbits(codes, axis=1), 13, len(codes), 4 / 13)
    for code, row in enumerate(differing):
        assert set(found.of(code)) == set(np.flatnonzero(row <= 4).tolist()) - {code}


def test_no_tracks_give_no_groups():
    assert cluster_tracks(np.zeros((0, 4), np.uint8), 32, 0.2).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_bits": 9},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"spans": [Span("a", 0.0, 1.0)]},
        {"people": ["Ada"]},
        {"n_nearest": 0},
    ],
)
def test_invalid_arguments_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "n_bits" not in wrong else "codes"):
        cluster_tracks(**{"codes": np.zeros((2, 1), np.uint8), "n_bits": 8, "threshold": 0.2, **wrong})


def test_clustering_stops_at_n_groups():
    codes, _ = people_codes(3, 5, 64, 0.15, 0)
    # The groups that some threshold gives, by their number.
    expected = {max(groups): groups for groups in (slow(codes, threshold) for threshold in np.linspace(0, 1, 400))}
    assert {1, 3, 15} < expected.keys()
    for n_groups, groups in [*expected.items(), (16, expected[15])]:
        assert cluster_tracks(np.packbits(codes, axis=1), 64, 1.0, n_groups=n_groups).tolist() == groups
    # The threshold still holds.
    assert cluster_tracks(np.packbits(codes, axis=1), 64, 0.2, n_groups=1).tolist() == slow(codes, 0.2)


def test_invalid_n_groups_raises():
    with pytest.raises(ValueError, match="n_groups must be at least 1, not 0"):
        cluster_tracks(np.zeros((2, 1), np.uint8), 8, 0.5, n_groups=0)


@pytest.mark.parametrize("seed", range(5))
def test_decided_pairs_hold(seed):
    codes = np.packbits(people_codes(6, 4, 32, 0.2, seed)[0], axis=1)
    random = np.random.default_rng(seed)
    people = [random.choice(["Ada", "Bo"]) if random.random() < 0.2 else None for _ in codes]
    pairs = [tuple(sorted(random.choice(len(codes), 2, replace=False).tolist())) for _ in range(8)]
    same, different = pairs[:3], [pair for pair in pairs[3:] if pair not in pairs[:3]]
    groups = cluster_tracks(codes, 32, 0.3, people=people, same=same, different=different)
    for a, b in same:
        assert groups[a] == groups[b] or len({people[i] for i in np.flatnonzero(np.isin(groups, groups[[a, b]]))}) > 2
    linked = cluster_tracks(codes, 32, 0.0, people=people, same=same)
    for a, b in different:
        assert groups[a] != groups[b] or linked[a] == linked[b]


def test_pair_of_two_named_people_is_not_joined():
    codes = np.zeros((2, 1), np.uint8)
    assert cluster_tracks(codes, 8, 1.0, people=["Ada", "Bo"], same=[(0, 1)]).tolist() == [1, 2]
