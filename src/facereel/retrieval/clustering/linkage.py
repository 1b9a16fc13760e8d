"""Cluster tracks into people by average linkage of codes or features; tracks seen at the same time are kept apart."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.retrieval.backends.faiss import inverted_file
from facereel.system.optional import import_faiss

# With at most N_EXACT codes, all others are candidates of a code; with more, the N_NEAREST nearest are.
N_EXACT = 2048
N_NEAREST = 64
# A group keeps 4 times as many candidates. Without a limit, a person with thousands of tracks, which join one after the
# other, would be compared with all remaining groups each time. A dropped group still has this one among its candidates.
_TIMES_AS_MANY = 4
# Up to this number of codes, FAISS compares all pairs; with more, it compares a code with those in the nearest cells.
_FLAT = 200_000
_CELLS_LOOKED_INTO = 32
# Number of codes to search for at a time.
_AT_ONCE = 2**14


class Span(NamedTuple):
    """The time in which a track is on screen."""

    video: str
    start_s: float | None
    end_s: float | None
    """First and last time in seconds; None if unknown."""


def cluster_tracks(  # noqa: PLR0913 (each is a property of the tracks or of the groups)
    codes: NDArray[np.uint8],
    n_bits: int,
    threshold: float,
    *,
    features: NDArray[np.float64] | None = None,
    spans: Sequence[Span] | None = None,
    people: Sequence[str | None] | None = None,
    same: Iterable[tuple[int, int]] = (),
    different: Iterable[tuple[int, int]] = (),
    n_nearest: int | None = None,
    n_groups: int = 1,
) -> NDArray[np.int64]:
    """Cluster tracks into people by average linkage: join the two nearest groups until all are far apart.

    The distance of two groups is the mean distance between their tracks: the fraction of bits that differ, or with
    features half of 1 minus the cosine. It depends only on the sums of the bits or features in either group, so memory
    grows with N times `n_nearest`, not with N^2. Groups are compared if a track of one is among the `n_nearest` of a
    track of the other. If these are all tracks, the result is exact average linkage.

    This is our own code, since no library we know keeps pairs apart in average linkage: scipy's and fastcluster's have
    no constraints, and scikit-learn's only has a graph of allowed joins, and N^2 distances.

    Args:
        codes: (N, ceil(K / 8)) uint8, packed by `pack_codes`.
        n_bits: K, the length of a code in bits.
        threshold: maximum distance of groups to join, in 0..1.
        features: (N, D) feature of each track, of length 1, to use instead of the codes; the nearest tracks, which are
            candidates, are found by codes.
        spans: (N,) time in which each track is on screen. Two tracks at the same time in one video are two people.
        people: (N,) name of each track, or None. Tracks with the same name are in one group from the start, despite all
            other constraints; tracks with different names are never in one group.
        same: pairs of tracks that are in one group from the start, unless they have different names or a pair of
            `different` keeps their groups apart.
        different: pairs of tracks that are two people.
        n_nearest: number of candidates of each code; None means `n_candidates`.
        n_groups: stop when this number of groups is left.

    Returns:
        (N,) group of each track, from 1. Groups are sorted by size, the largest first, then by their first track.

    Raises:
        ValueError: if a shape is wrong, or `threshold`, `n_nearest` or `n_groups` is out of range.
        UserError: if FAISS is not installed.

    Examples:
        >>> cluster_tracks(np.array([[0b11110000], [0b00001111], [0b11110001]], np.uint8), n_bits=8, threshold=0.2)
        array([1, 2, 1])
    """
    n_tracks = len(codes)
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] != -(-n_bits // 8):
        raise ValueError(f"codes must be uint8 (N, {-(-n_bits // 8)}), not {codes.dtype} {codes.shape}")
    if features is not None and (features.ndim != 2 or len(features) != n_tracks):
        raise ValueError(f"features must be ({n_tracks}, D), not {features.shape}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, not {threshold}")
    if n_nearest is not None and n_nearest < 1:
        raise ValueError(f"n_nearest must be at least 1, not {n_nearest}")
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, not {n_groups}")
    for name, given in (("spans", spans), ("people", people)):
        if given is not None and len(given) != n_tracks:
            raise ValueError(f"{name} must have {n_tracks} items, one per track, not {len(given)}")
    if not n_tracks:
        return np.zeros(0, np.int64)
    known = _Known(people or [None] * n_tracks, same, different, simultaneous(spans or ()))
    linkage = _Linkage(codes, n_bits, threshold, known, n_nearest, features)
    groups = linkage.run(n_groups)
    return _numbered(groups)


def n_candidates(n_codes: int) -> int:
    """Return the default number of candidates of each code."""
    return n_codes if n_codes <= N_EXACT else N_NEAREST


def simultaneous(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Yield pairs of tracks that are on screen at the same time in one video, with inclusive ends."""
    by_video: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for track, span in enumerate(spans):
        if span.start_s is not None and span.end_s is not None:
            by_video[span.video].append((span.start_s, span.end_s, track))
    for tracks in by_video.values():
        on_screen: list[tuple[float, int]] = []
        for start, end, track in sorted(tracks):
            on_screen = [(until, other) for until, other in on_screen if until >= start]
            yield from ((other, track) for _, other in on_screen)
            on_screen.append((end, track))


class Nearest(NamedTuple):
    """The codes near each code, in one array."""

    starts: NDArray[np.int64]
    """(N + 1,) start of each code's neighbors in `near`, and the end of the last."""
    near: NDArray[np.int32]
    """Indices of codes."""

    def of(self, code: int) -> list[int]:
        """Return the indices of the codes near a code."""
        return self.near[self.starts[code] : self.starts[code + 1]].tolist()


def nearest(codes: NDArray[np.uint8], n_bits: int, k: int, threshold: float) -> Nearest:
    """Find the k nearest other codes of each code that are within a threshold.

    With more than 200,000 codes, a code is compared only with those in the nearest cells, and a few neighbors are
    missed: see docs/results/grouping.md.

    Args:
        codes: (N, W) uint8, all different.
        n_bits: K, the length of a code in bits.
        k: maximum number of neighbors.
        threshold: maximum distance, as a fraction of bits in 0..1.

    Returns:
        The neighbors of each code.
    """
    if len(codes) <= _FLAT:
        index = import_faiss().IndexBinaryFlat(8 * codes.shape[1])
        index.add(codes)
    else:
        index = inverted_file(codes, _CELLS_LOOKED_INTO)
    counts, found = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for first in range(0, len(codes), _AT_ONCE):
        distances, near = index.search(codes[first : first + _AT_ONCE], min(k + 1, len(codes)))
        own = np.arange(first, first + len(near))[:, None]
        # -1 means that the cells have fewer than k codes.
        kept = (near >= 0) & (near != own) & (distances / n_bits <= threshold)
        counts.append(kept.sum(axis=1))
        found.append(near[kept].astype(np.int32))
    return Nearest(np.cumsum(np.concatenate(counts)), np.concatenate(found))


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(1, len(first) + 1)
    return rank[inverse]


class _Known(NamedTuple):
    """What is known of the tracks before they are compared."""

    people: Sequence[str | None]
    same: Iterable[tuple[int, int]]
    different: Iterable[tuple[int, int]]
    simultaneous: Iterable[tuple[int, int]]


class _Linkage:
    """State of average linkage. A group is identified by the number of its first track.

    Each group that may still grow has an entry in a heap, keyed by a lower bound of its distance to the nearest group.
    The mean over a joined group is never below the smaller of the means over its parts, so that distances only grow.
    The group at the top is compared with its candidates again. If two groups are both farther from a third than the
    threshold, their union is too, so that a group that is too far once is never a candidate again.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        n_bits: int,
        threshold: float,
        known: _Known,
        n_nearest: int | None,
        features: NDArray[np.float64] | None = None,
    ) -> None:
        self._codes, self._n_bits, self._threshold = codes, n_bits, threshold
        self._features = features
        self._above = np.arange(len(codes))  # another track of each track's group, or itself if it is the first
        self._sizes = np.ones(len(codes), np.int64)
        self._sums: dict[int, NDArray[np.float64]] = {}
        """For groups of several tracks: the (K,) number of tracks with each bit, or the (D,) sum of their features.

        Integers keep equal distances of codes equal.
        """
        self._apart: dict[int, set[int]] = {}
        self._names: dict[int, str] = {}
        self._candidates: dict[int, list[int]] = {}
        """Candidates of groups that were compared or joined before; for others they follow from the codes nearby."""
        self._keep_apart(known.different)
        self._join_named(known.people)
        for a, b in known.same:
            first, second = sorted((self._find(a), self._find(b)))
            if first != second and self._may_join(first, second):
                self._join(first, second)
        self._keep_apart(known.simultaneous)
        distinct, code_of = np.unique(codes, axis=0, return_inverse=True)
        self._code_of: NDArray[np.int64] = code_of.reshape(-1)
        self._codes_of, self._holders = self._join_equal(len(distinct))
        k = min(len(distinct), n_nearest or n_candidates(len(distinct)))
        # Features may be near although codes are not.
        self._near = nearest(distinct, n_bits, k, threshold if features is None else 1.0)
        self._most = len(codes) if k == len(distinct) else _TIMES_AS_MANY * k
        self._heap = [(0.0, group) for group in self._firsts()]

    def run(self, n_groups: int = 1) -> NDArray[np.int64]:
        """Join the two nearest groups until all are farther apart than the threshold, or `n_groups` are left.

        Args:
            n_groups: number of groups at which to stop.

        Returns:
            (N,) group of each track.
        """
        n_left = len(self._firsts())
        while self._heap and n_left > n_groups:
            distance, group = heapq.heappop(self._heap)
            if self._above[group] != group:
                continue
            best = self._nearest_group(group)
            if best is None:
                continue  # if it is near another group that grows, that group has an entry
            if best[0] > distance:
                heapq.heappush(self._heap, (best[0], group))
            else:
                a, b = sorted((group, best[1]))
                self._candidates[a] = self._all_candidates(a) + self._all_candidates(b)
                self._candidates.pop(b, None)
                self._join(a, b)
                n_left -= 1
                heapq.heappush(self._heap, (distance, a))
        return np.array([self._find(track) for track in range(len(self._above))])

    def _keep_apart(self, pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            first, second = self._find(a), self._find(b)
            if first != second:
                self._apart.setdefault(first, set()).add(second)
                self._apart.setdefault(second, set()).add(first)

    def _join_named(self, people: Sequence[str | None]) -> None:
        first: dict[str, int] = {}
        for track, person in enumerate(people):
            if person is not None:
                if person in first:
                    self._join(first[person], track)
                else:
                    first[person] = track
        self._names = {group: person for person, group in first.items()}

    def _join_equal(self, n_codes: int) -> tuple[dict[int, set[int]], list[list[int]]]:
        """Join groups with the same code: at distance 0 they would fill the lists of nearest codes.

        Returns:
            The codes of groups that have several, and the groups of each code.
        """
        codes_of: dict[int, set[int]] = {}
        holders: list[list[int]] = [[] for _ in range(n_codes)]
        for track in np.flatnonzero(self._sizes[self._above] > 1).tolist():
            codes_of.setdefault(self._find(track), set()).add(int(self._code_of[track]))
        codes_of = {group: codes for group, codes in codes_of.items() if len(codes) > 1}
        for group in self._firsts():
            if group not in codes_of:
                its = holders[self._code_of[group]]
                match = next((other for other in its if self._may_join(other, group)), None)
                if match is None:
                    its.append(group)
                else:
                    self._join(match, group)
        for group, codes in codes_of.items():
            for code in codes:
                holders[code].append(group)
        return codes_of, holders

    def _nearest_group(self, group: int) -> tuple[float, int] | None:
        """Return distance and number of the nearest group that may be joined; the first one among ties."""
        others = sorted({self._find(other) for other in self._all_candidates(group)} - {group})
        others = [other for other in others if self._may_join(group, other)]
        self._candidates[group] = []
        if not others:
            return None
        sums, own = self._sums_of(others), self._sums_of([group])[0]
        sizes, size = self._sizes[others], int(self._sizes[group])
        if self._features is not None:
            distances = (1 - (sums @ own) / (size * sizes)) / 2
        else:
            # A bit differs between two tracks if exactly one has it: the bits of both, minus twice those in common.
            differing = size * sums.sum(axis=1) + sizes * own.sum() - 2 * (sums @ own)
            distances = differing / (size * sizes * self._n_bits)
        near = np.flatnonzero(distances <= self._threshold)
        if len(near) > self._most:
            near = near[np.argsort(distances[near], kind="stable")[: self._most]]
        self._candidates[group] = [others[i] for i in near]
        best = int(distances.argmin())
        return (float(distances[best]), others[best]) if distances[best] <= self._threshold else None

    def _all_candidates(self, group: int) -> list[int]:
        if group in self._candidates:
            return self._candidates[group]
        codes = self._codes_of.get(group) or {int(self._code_of[group])}
        near = {other for code in codes for other in (code, *self._near.of(code))}
        return [other for code in near for other in self._holders[code]]

    def _may_join(self, a: int, b: int) -> bool:
        return b not in self._apart.get(a, ()) and (a not in self._names or b not in self._names)

    def _join(self, a: int, b: int) -> None:
        """Join group b into group a, a < b."""
        self._sums[a] = self._sums_of([a])[0] + self._sums_of([b])[0]
        self._sums.pop(b, None)
        self._sizes[a] += self._sizes[b]
        self._above[b] = a
        if b in self._names:
            self._names[a] = self._names.pop(b)
        for other in self._apart.pop(b, ()):
            self._apart[other].discard(b)
            if other != a:
                self._apart[other].add(a)
                self._apart.setdefault(a, set()).add(other)

    def _sums_of(self, groups: list[int]) -> NDArray[np.float64]:
        """Return (M, K) or (M, D): the sums of each group."""
        if self._features is not None:
            sums = self._features[groups]
        else:
            sums = np.unpackbits(self._codes[groups], axis=1, count=self._n_bits).astype(np.float64)
        for i, group in enumerate(groups):
            if group in self._sums:
                sums[i] = self._sums[group]
        return sums

    def _firsts(self) -> list[int]:
        return np.flatnonzero(self._above == np.arange(len(self._above))).tolist()

    def _find(self, track: int) -> int:
        while (above := int(self._above[track])) != track:
            self._above[track] = self._above[above]
            track = above
        return track
