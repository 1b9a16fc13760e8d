"""Verification: the metrics of a list of pairs, each of one person or of two (Wolf, Hassner and Maoz, CVPR 2011)."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facereel.evaluation.encode import Encoded
from facereel.evaluation.split import Pair

# The false match rates 10^-k at which the true match rate is computed, by k.
FALSE_MATCH_RATES = {k: f"{10**-k:g}" for k in range(1, 7)}

# For more pairs, intervals would take minutes.
MOST_PAIRS = 50_000

# Fixed, so that an evaluation gives the same intervals each time.
_SEED = 0


@dataclass
class VerificationResult:
    """P pairs, the distances of their items, and the metrics."""

    pairs: Sequence[Pair]
    hamming: Tensor
    """(P,) int64, Hamming distances of the codes."""
    distance: Tensor
    """(P,) float64, squared Euclidean distances of the real-valued outputs."""
    metrics: dict[str, Any]
    """Metrics of `verify` and `intervals`, for "codes" and "real_valued"."""


def verify_pairs(items: dict[str, Encoded], pairs: Sequence[Pair]) -> VerificationResult:
    """Compare the two items of each pair by their codes and by their real-valued outputs.

    Args:
        items: items by kind, "clip" and "still", from `encode_part`; must contain both items of every pair.
        pairs: pairs in at least two folds, of the same person and of two people.

    Returns:
        The distances, and their metrics with intervals.
    """
    place = {item.key: i for i, item in enumerate(item for kind in items.values() for item in kind.items)}
    codes, scores, labels = (
        torch.cat([getattr(kind, name) for kind in items.values()]) for name in ("codes", "scores", "labels")
    )
    first = torch.tensor([place[pair.first] for pair in pairs])
    second = torch.tensor([place[pair.second] for pair in pairs])
    hamming = (codes[first] ^ codes[second]).sum(dim=1)
    distance = (scores[first].double() - scores[second].double()).square().sum(dim=1)
    same = torch.tensor([pair.same for pair in pairs])
    fold = torch.tensor([pair.fold for pair in pairs])
    people = torch.stack([labels[first], labels[second]], dim=1)
    metrics = {
        name: {**verify(values, same, fold), **intervals(values, same, fold, people)}
        for name, values in (("codes", hamming), ("real_valued", distance))
    }
    return VerificationResult(pairs, hamming, distance, metrics)


def verify(distances: Tensor, same: Tensor, fold: Tensor) -> dict[str, Any]:
    """Compute the metrics of `metrics.json` for one kind of distance.

    Args:
        distances: (P,) numbers; a smaller distance means more likely the same person.
        same: (P,) bool; both values must occur.
        fold: (P,) integer; at least two folds.

    Returns:
        `accuracy` and `accuracy_std`: the mean and the sample standard deviation (n - 1) of `fold_accuracies`. The
        others are over all pairs. `eer`: the rate at which false accepts equal false rejects, on straight lines between
        the points of the ROC. `auc`: the area under these lines, which is the probability that a pair of the same
        person is nearer than one of two people, where ties count half. `tmr_at_fmr`: by false match rate, the true
        match rate at the largest threshold that accepts at most this fraction of the pairs of two people; None if there
        are fewer of these pairs than 1 / rate. `roc`: `fpr` and `tpr` from (0, 0) to (1, 1), without points on a line
        between their neighbors.
    """
    # Not torchmetrics: it computes rates in float32, and its EER is the mean of both rates at the nearest point of the
    # ROC, which gave 0.433 instead of 0.428 on 30 pairs with tied distances. The thresholds of the folds need exact
    # counts anyway.
    table = _PairTable(distances, same, fold)
    counts = table.count()
    accuracies = table.fold_accuracies(counts)
    n_false, n_true = _accumulated(counts.sum(dim=0))
    summary = table.summary(counts)
    corners = _corners(n_false, n_true)
    return {
        **{name: summary[name] for name in ("accuracy", "eer", "auc")},
        "accuracy_std": float(accuracies.std()),
        "tmr_at_fmr": {rate: summary[rate] if n_false[-1] >= 10**k else None for k, rate in FALSE_MATCH_RATES.items()},
        "roc": {"fpr": (n_false / n_false[-1])[corners].tolist(), "tpr": (n_true / n_true[-1])[corners].tolist()},
    }


def intervals(
    distances: Tensor, same: Tensor, fold: Tensor, people: Tensor, n_draws: int = 1_000, level: float = 0.95
) -> dict[str, Any]:
    """Compute intervals of the metrics of `verify` by the vertex bootstrap (Snijders and Borgatti 1999) over people.

    Pairs with a person in common are not independent, so people are drawn with replacement: the weight of a pair of two
    people is the product of the numbers of times they were drawn, the weight of a pair of one person is the number of
    times this person was drawn. Fogliato, Patil and Perona (IJCV 2024) compare this with other intervals for
    verification. Two people who are in no other pair are drawn as one, since their pair is independent of all others.

    Args:
        distances: as in `verify`.
        same: as in `verify`.
        fold: as in `verify`.
        people: (P, 2) int64, the people of each pair.
        n_draws: number of draws of people.
        level: fraction of the drawn metrics that is within the interval.

    Returns:
        Lower and upper end, as `accuracy_interval`, `eer_interval`, `auc_interval`, and by false match rate
        `tmr_at_fmr_interval`. None if `verify` gives None or no draw has pairs of both kinds, and for all metrics if
        there are more than `MOST_PAIRS` pairs.
    """
    n_draws = 0 if len(distances) > MOST_PAIRS else n_draws
    table = _PairTable(distances, same, fold)
    first, second = _units(people)
    random = np.random.default_rng(_SEED)
    n_units = int(torch.maximum(first, second).max()) + 1
    draws: dict[str, list[float]] = defaultdict(list)
    for _ in range(n_draws):
        times = torch.from_numpy(np.bincount(random.integers(n_units, size=n_units), minlength=n_units))
        weights = times[first] * torch.where(first == second, 1, times[second])
        for name, value in table.summary(table.count(weights.double())).items():
            draws[name].append(value)
    tails = [(1 - level) / 2, (1 + level) / 2]

    def ends(name: str) -> list[float] | None:
        # Rates are not defined for a draw that has pairs of one kind only.
        known = [value for value in draws[name] if value == value]
        return np.quantile(known, tails).tolist() if known else None

    n_impostors = int((~same).sum())
    by_rate = {rate: ends(rate) if n_impostors >= 10**k else None for k, rate in FALSE_MATCH_RATES.items()}
    return {
        **{f"{name}_interval": ends(name) for name in ("accuracy", "eer", "auc")},
        "tmr_at_fmr_interval": by_rate,
    }


def fold_accuracies(distances: Tensor, same: Tensor, fold: Tensor) -> Tensor:
    """Compute the accuracy of each fold with the threshold that is best on all other folds; see `best_threshold`.

    Args:
        distances: as in `verify`.
        same: as in `verify`.
        fold: as in `verify`.

    Returns:
        (F,) float64, the fraction of correct decisions in each fold, in the order of the fold numbers.
    """
    table = _PairTable(distances, same, fold)
    return table.fold_accuracies(table.count())


class _PairTable:
    """Weighted counts of pairs by fold, kind and distance: the metrics depend on nothing else.

    Args:
        distances: (P,) numbers.
        same: (P,) bool.
        fold: (P,) integer.
    """

    def __init__(self, distances: Tensor, same: Tensor, fold: Tensor) -> None:
        self.values, place = torch.unique(distances.double(), return_inverse=True)
        folds, number = torch.unique(fold, return_inverse=True)
        self._shape = (len(folds), 2, len(self.values))
        self._cell = (2 * number + same.long()) * len(self.values) + place

    def count(self, weights: Tensor | None = None) -> Tensor:
        """Return the counts (F, 2, V) float64: by fold, the pairs of two people and of one at increasing distances."""
        n_cells = math.prod(self._shape)
        return torch.bincount(self._cell, weights, minlength=n_cells).double().view(self._shape)

    def fold_accuracies(self, counts: Tensor) -> Tensor:
        """Return (F,) as the function of this name; NaN for a fold without pairs."""
        thresholds = _best_thresholds(self.values, counts.sum(dim=0) - counts)
        n_false, n_true = _accumulated(counts)
        place = torch.searchsorted(self.values, thresholds, right=True)[:, None]
        right = n_true.gather(1, place)[:, 0] + n_false[:, -1] - n_false.gather(1, place)[:, 0]
        return right / (n_true[:, -1] + n_false[:, -1])

    def summary(self, counts: Tensor) -> dict[str, float]:
        """Return the scalar metrics of `verify`, true match rates by rate; NaN if pairs of one kind are missing."""
        n_false, n_true = _accumulated(counts.sum(dim=0))
        fpr, tpr = n_false / n_false[-1], n_true / n_true[-1]
        # Exact, since counts are integers.
        last = {rate: int((n_false * 10**k <= n_false[-1]).sum()) - 1 for k, rate in FALSE_MATCH_RATES.items()}
        return {
            "accuracy": float(self.fold_accuracies(counts).nanmean()),
            "eer": _equal_error_rate(fpr, tpr),
            # From counts, which are exact, so that no area is above 1.
            "auc": float(torch.trapezoid(n_true, n_false) / (n_true[-1] * n_false[-1])),
            **{rate: float(tpr[place]) if n_false[-1] else math.nan for rate, place in last.items()},
        }


def best_threshold(distances: Tensor, same: Tensor) -> float:
    """Find the distance up to which accepting pairs as the same person gives the most correct decisions.

    Args:
        distances: (P,) numbers.
        same: (P,) bool.

    Returns:
        The best of the midpoints between neighboring distances, and of minus and plus infinity, which accept no pair or
        all pairs. If several are equally good, it is the smallest, which accepts the fewest pairs.

    Examples:
        >>> best_threshold(torch.tensor([1, 2, 6, 9]), torch.tensor([True, True, False, False]))
        4.0
    """
    table = _PairTable(distances, same, torch.zeros(len(distances)))
    return float(_best_thresholds(table.values, table.count()))


def _best_thresholds(values: Tensor, counts: Tensor) -> Tensor:
    """Return `best_threshold` (F,) for each of F lists of pairs, given as counts (F, 2, V) at increasing distances."""
    n_false, n_true = _accumulated(counts)
    best = (n_true + n_false[:, -1:] - n_false).argmax(dim=1, keepdim=True)  # the first of equal maxima
    edges = torch.nn.functional.pad(values, (1, 1), value=torch.inf)
    # The best is the first of equal maxima, so there are pairs at the distance before it. The next distance with pairs
    # must be searched.
    later = torch.arange(len(values)) >= best
    after = later & (counts.sum(dim=1) > 0)
    place = torch.where(after.any(dim=1, keepdim=True), after.byte().argmax(dim=1, keepdim=True), len(values))
    thresholds = (edges[best] + edges[place + 1]) / 2
    return torch.where(best == 0, -torch.inf, thresholds)[:, 0]


def _accumulated(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return cumulative counts of pairs of two people and of one, each (..., V + 1), from counts (..., 2, V)."""
    total = torch.nn.functional.pad(counts.cumsum(dim=-1), (1, 0))
    return total[..., 0, :], total[..., 1, :]


def _units(people: Tensor) -> tuple[Tensor, Tensor]:
    """Return the units of the bootstrap for the two people of each pair, (P,) each, numbered from 0."""
    _, number = torch.unique(people, return_inverse=True)
    first, second = number.unbind(dim=1)
    n_pairs = torch.bincount(torch.cat([first, second[first != second]]))
    alone = (n_pairs[first] == 1) & (n_pairs[second] == 1)
    second = torch.where(alone, first, second)
    _, number = torch.unique(torch.stack([first, second], dim=1), return_inverse=True)
    return number[:, 0], number[:, 1]


def _equal_error_rate(fpr: Tensor, tpr: Tensor) -> float:
    # False accept rate minus false reject rate, which grows with every point, from -1 to 1.
    excess = fpr + tpr - 1
    if excess[-1] != 1:
        return math.nan
    after = int((excess >= 0).nonzero()[0])
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(torch.lerp(fpr[after - 1], fpr[after], share))


def _corners(n_false: Tensor, n_true: Tensor) -> Tensor:
    """Return (V + 1,) bool: True at both ends, and where the ROC bends, from counts."""
    right, up = n_false.diff(), n_true.diff()
    bends = right[:-1] * up[1:] != right[1:] * up[:-1]
    return torch.nn.functional.pad(bends, (1, 1), value=True)
