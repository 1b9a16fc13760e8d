"""Same person or not: the metrics of a list of pairs (Wolf, Hassner and Maoz, CVPR 2011)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facereel.evaluation.encode import Encoded
from facereel.evaluation.split import Pair


@dataclass
class VerificationResult:
    """P pairs, how far apart their clips are, and what that is good for."""

    pairs: Sequence[Pair]
    hamming: Tensor
    """(P,) int64, of the codes."""
    distance: Tensor
    """(P,) float64, squared Euclidean, of the real-valued outputs."""
    metrics: dict[str, Any]
    """Of `verify`, for "codes" and "real_valued"."""


def verify_pairs(clips: Encoded, pairs: Sequence[Pair]) -> VerificationResult:
    """Compare the two clips of each pair by their codes, and by the real-valued outputs.

    Args:
        clips: holds every clip that a pair names.
        pairs: of at least two folds, of the same person and of two people.

    Returns:
        The distances and their metrics.
    """
    place = {item.key: i for i, item in enumerate(clips.items)}
    first = torch.tensor([place[pair.first] for pair in pairs])
    second = torch.tensor([place[pair.second] for pair in pairs])
    hamming = (clips.codes[first] ^ clips.codes[second]).sum(dim=1)
    distance = (clips.scores[first].double() - clips.scores[second].double()).square().sum(dim=1)
    same = torch.tensor([pair.same for pair in pairs])
    fold = torch.tensor([pair.fold for pair in pairs])
    metrics = {"codes": verify(hamming, same, fold), "real_valued": verify(distance, same, fold)}
    return VerificationResult(pairs, hamming, distance, metrics)


def verify(distances: Tensor, same: Tensor, fold: Tensor) -> dict[str, Any]:
    """Compute the metrics of `metrics.json` for one kind of distance.

    Args:
        distances: (P,) numbers; smaller says same person.
        same: (P,) bool, with both values in it.
        fold: (P,) integer, at least two different ones.

    Returns:
        `accuracy` and `accuracy_std`, the mean and the standard deviation (of a sample: n - 1) over folds of
        `fold_accuracies`; over all pairs `eer`, the rate of false accepts where it equals that of false rejects, on
        straight lines between the points of the ROC; `auc`, the area under these lines, which is the chance that a
        pair of the same person is nearer than one of two people, with half of the ties; and `roc`, `fpr` and `tpr`
        from (0, 0) to (1, 1), without the points that lie on a line between their neighbors.
    """
    accuracies = fold_accuracies(distances, same, fold)
    # Not torchmetrics: it computes rates in float32, and its EER is the mean of both rates at the nearest point of the
    # ROC: on 30 pairs with tied distances we saw 0.433 for 0.428. The folds' thresholds need the exact counts anyway.
    _, n_false, n_true = accepted(distances, same)
    n_false, n_true = n_false.double(), n_true.double()
    fpr, tpr = n_false / n_false[-1], n_true / n_true[-1]
    corners = _corners(n_false, n_true)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std()),
        "eer": _equal_error_rate(fpr, tpr),
        # Of counts, which are exact: no area is above 1.
        "auc": float(torch.trapezoid(n_true, n_false) / (n_true[-1] * n_false[-1])),
        "roc": {"fpr": fpr[corners].tolist(), "tpr": tpr[corners].tolist()},
    }


def fold_accuracies(distances: Tensor, same: Tensor, fold: Tensor) -> Tensor:
    """Decide each fold's pairs by the threshold that is best on all other folds.

    Returns:
        (F,) float64, the share of each fold's pairs decided rightly, in the order of the folds' numbers.
    """
    # A whole number or single precision beside a threshold would round the threshold.
    distances = distances.double()
    values = []
    for number in torch.unique(fold):
        own = fold == number
        threshold = best_threshold(distances[~own], same[~own])
        values.append(((distances[own] <= threshold) == same[own]).double().mean())
    return torch.stack(values)


def best_threshold(distances: Tensor, same: Tensor) -> float:
    """Find the distance up to which pairs are best accepted as the same person.

    Args:
        distances: (P,) numbers.
        same: (P,) bool.

    Returns:
        Of the midpoints between neighboring distances, and minus and plus infinity for accepting none or all, the one
        with the most right decisions; of several equally good ones the smallest, which accepts the fewest pairs.

    Examples:
        >>> best_threshold(torch.tensor([1, 2, 6, 9]), torch.tensor([True, True, False, False]))
        4.0
    """
    values, n_false, n_true = accepted(distances, same)
    right = n_true + (n_false[-1] - n_false)
    infinity = values.new_tensor([torch.inf])
    thresholds = torch.cat([-infinity, (values[:-1] + values[1:]) / 2, infinity])
    return float(thresholds[right.argmax()])  # the first of equal maxima


def accepted(distances: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the pairs that each threshold accepts; pairs at one distance come together.

    Returns:
        (V,) float64 the different distances, increasing; (V + 1,) int64 how many pairs of two people, and of the same
        person, are accepted with the first 0, 1, ..., V of them.
    """
    values, place = torch.unique(distances.double(), return_inverse=True)
    counts = [torch.bincount(place[kind], minlength=len(values)).cumsum(dim=0) for kind in (~same, same)]
    n_false, n_true = (torch.nn.functional.pad(count, (1, 0)) for count in counts)
    return values, n_false, n_true


def _equal_error_rate(fpr: Tensor, tpr: Tensor) -> float:
    # False accepts less false rejects: it grows with every point, from -1 to 1.
    excess = fpr + tpr - 1
    after = int((excess >= 0).nonzero()[0])
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(torch.lerp(fpr[after - 1], fpr[after], share))


def _corners(n_false: Tensor, n_true: Tensor) -> Tensor:
    """(V + 1,) bool: the ends, and where the ROC bends; by counts."""
    right, up = n_false.diff(), n_true.diff()
    bends = right[:-1] * up[1:] != right[1:] * up[:-1]
    return torch.nn.functional.pad(bends, (1, 1), value=True)
