"""Open-set search: is the person of the query in the gallery, and if so, where?

A search is mated if the gallery contains the person of the query. It returns the nearest item if that is nearer than a
threshold. The false positive identification rate (FPIR) is the fraction of non-mated searches that return an item; the
true positive identification rate (TPIR) is the fraction of mated searches that return the correct person (Grother, Ngan
and Hanaoka, NISTIR 8271).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facereel.evaluation.intervals import Values, means_over_people
from facereel.evaluation.metrics import TaskResult
from facereel.functional.hamming import bit_distance

FPIRS = (0.1, 0.01, 0.001)

# Number of elements of a distance matrix in memory.
_CHUNK_ELEMENTS = 2**23


class Searches(NamedTuple):
    """Nearest items of Q searches, with and without the person of the query in the gallery."""

    nearest: Tensor
    """(Q,) float64, the smallest distance; infinite if the gallery is empty."""
    hit: Tensor
    """(Q,) float64, the probability that the nearest item shows the person, over random orders of tied items."""
    is_mated: Tensor
    """(Q,) bool, True if the gallery contains the person."""
    nearest_other: Tensor
    """(Q,) float64, the smallest distance to another person; infinite if there is no other person."""
    people: Tensor
    """(Q,) int64, the person of each query."""


def search(
    distances: Callable[[slice], Tensor], query_labels: Tensor, gallery_labels: Tensor, exclude: Tensor | None = None
) -> Searches:
    """Find the nearest item of each query.

    Args:
        distances: function that returns the distances (R, N) of a slice of the queries to the gallery.
        query_labels: (Q,) integer.
        gallery_labels: (N,) integer.
        exclude: (Q, N) bool, True to exclude, or None.

    Returns:
        The searches, in the order of the queries.
    """
    parts = []
    step = max(1, _CHUNK_ELEMENTS // max(1, len(gallery_labels)))
    for start in range(0, len(query_labels), step):
        rows = slice(start, start + step)
        distance = distances(rows).double()
        relevant = query_labels[rows, None] == gallery_labels[None, :]
        if exclude is not None:
            distance = distance.masked_fill(exclude[rows], torch.inf)
        nearest = distance.amin(dim=1)
        is_nearest = (distance == nearest[:, None]) & distance.isfinite()
        hit = (is_nearest & relevant).sum(dim=1) / is_nearest.sum(dim=1).clamp_min(1).double()
        is_mated = (relevant & distance.isfinite()).any(dim=1)
        other = distance.masked_fill(relevant, torch.inf).amin(dim=1)
        parts.append((nearest, hit, is_mated, other))
    nearest, hit, is_mated, other = (torch.cat(column) for column in zip(*parts, strict=True))
    return Searches(nearest, hit, is_mated, other, query_labels)


def threshold_below(distances: Tensor, rate: float) -> float | None:
    """Find the largest threshold such that at most a given fraction of distances is below it.

    Distances that tie with the threshold are not below it, so with integer distances the fraction may be smaller than
    requested, but never larger.

    Args:
        distances: (P,) distances of non-mated searches, or of pairs of different people.
        rate: the fraction, in 0..1.

    Returns:
        The threshold; None if there are so few distances that a single one is a larger fraction.

    Examples:
        >>> threshold_below(torch.tensor([5.0, 1.0, 3.0, 3.0]), 0.5)
        3.0
    """
    n_allowed = int(rate * len(distances) + 1e-9)  # 0.29 * 100 is a little less than 29
    if n_allowed < 1:
        return None
    return torch.inf if n_allowed >= len(distances) else float(distances.kthvalue(n_allowed + 1).values)


def accepted_at(distances: Tensor, others: Tensor, rates: Iterable[float]) -> Values:
    """Determine which distances are below the threshold at each rate.

    Args:
        distances: (Q,) distances of mated searches, or of pairs of one person.
        others: (P,) distances of non-mated searches, or of pairs of different people.
        rates: fractions of `others` that may be below the threshold.

    Returns:
        (Q,) bool by rate, such as "0.01"; rates for which there are too few `others` are omitted.
    """
    thresholds = {f"{rate:g}": threshold_below(others, rate) for rate in rates}
    return {rate: distances < threshold for rate, threshold in thresholds.items() if threshold is not None}


def tpir_at_fpir(searches: Sequence[tuple[Searches, Tensor]]) -> dict[str, Any]:
    """Compute true positive identification rates, and their intervals over people with a fixed threshold.

    Args:
        searches: for each gallery its searches, and the distances (P,) of its non-mated searches. The result is the
            mean over galleries.

    Returns:
        `tpir_at_fpir` and `tpir_at_fpir_interval`, each by the FPIR, such as "0.01"; None if there are fewer non-mated
        searches than 1 / FPIR.
    """
    strata = []
    for found, others in searches:
        mated = found.is_mated
        accepted = accepted_at(found.nearest[mated], others, FPIRS)
        strata.append((found.people[mated], {rate: found.hit[mated] * value for rate, value in accepted.items()}))
    return at_rates("tpir_at_fpir", FPIRS, *means_over_people(strata))


def at_rates(
    name: str, rates: Iterable[float], means: Mapping[str, float], intervals: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Arrange means and intervals by rate, for `metrics.json`.

    Args:
        name: key of the means.
        rates: the rates, or ranks.
        means: means by rate.
        intervals: intervals by rate.

    Returns:
        The means under `name` and the intervals under `name`_interval; None for a rate that has no value.
    """
    keys = [f"{rate:g}" for rate in rates]
    return {name: {key: means.get(key) for key in keys}, f"{name}_interval": {key: intervals.get(key) for key in keys}}


def open_set_metrics(result: TaskResult) -> dict[str, Any]:
    """Compute the open-set metrics of a task, searching each query with and without its person in the gallery.

    Args:
        result: result of the task.

    Returns:
        `tpir_at_fpir` and `tpir_at_fpir_interval`, for "codes" and "real_valued", and `n_non_mated`, the number of
        searches without the person.
    """
    query, gallery = result.query, result.gallery
    scores = gallery.scores.double()
    distances: dict[str, Callable[[slice], Tensor]] = {
        "codes": lambda rows: bit_distance(query.codes[rows], gallery.codes),
        "real_valued": lambda rows: torch.cdist(query.scores[rows].double(), scores),
    }
    metrics: dict[str, Any] = {"tpir_at_fpir": {}, "tpir_at_fpir_interval": {}, "n_non_mated": 0}
    for kind, measure in distances.items():
        found = search(measure, query.labels, gallery.labels, result.exclude)
        others = found.nearest_other[found.nearest_other.isfinite()]
        for name, values in tpir_at_fpir([(found, others)]).items():
            metrics[name][kind] = values
        metrics["n_non_mated"] = len(others)
    return metrics
