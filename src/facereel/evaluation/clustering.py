"""Agreement of clusters with people."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.evaluation.intervals import means_over_people

Labels = NDArray[np.integer[Any]]


class Agreement(NamedTuple):
    """Precision, recall and their harmonic mean, in 0..1."""

    precision: float
    recall: float
    f: float


class _Counts(NamedTuple):
    """Numbers of items in the C nonempty cells; a cell is a pair of person and cluster."""

    cells: NDArray[np.int64]
    """(C,), number of items in the cell."""
    of_person: NDArray[np.int64]
    """(C,), number of items of the person."""
    of_cluster: NDArray[np.int64]
    """(C,), number of items in the cluster."""
    cell: NDArray[np.int64]
    """(N,), the cell of each item."""
    cluster: NDArray[np.int64]
    """(C,), the cluster of the cell."""


def weighted_purity(people: Labels, clusters: Labels) -> float:
    """Compute the weighted cluster purity: the fraction of items that show the most frequent person of their cluster.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        The fraction, in 0..1.

    Examples:
        >>> weighted_purity(np.array([1, 1, 2, 2]), np.array([5, 5, 5, 6]))
        0.75
    """
    counts = _count(people, clusters)
    largest = np.zeros(counts.cluster.max() + 1, np.int64)
    np.maximum.at(largest, counts.cluster, counts.cells)
    return float(largest.sum()) / len(people)


def normalized_mutual_information(people: Labels, clusters: Labels) -> float:
    """Compute the mutual information divided by the arithmetic mean of both entropies.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        The ratio, in 0..1; 1 if both have a single label.

    Examples:
        >>> normalized_mutual_information(np.array([1, 1, 2, 2]), np.array([7, 7, 3, 3]))
        1.0
    """
    counts = _count(people, clusters)
    n = len(people)
    share = counts.cells / n
    # All cells of a person have the same logarithm, so the sum over cells equals the sum over people.
    of_people, of_clusters = (-float((share * np.log(c / n)).sum()) for c in (counts.of_person, counts.of_cluster))
    if of_people == of_clusters == 0:
        return 1.0
    mutual = float((share * np.log(counts.cells * n / (counts.of_person * counts.of_cluster))).sum())
    return min(1.0, max(0.0, 2 * mutual / (of_people + of_clusters)))


def b_cubed(people: Labels, clusters: Labels) -> Agreement:
    """Compute B-cubed precision and recall (Bagga and Baldwin 1998), which are means over items.

    The precision of an item is the fraction of its cluster that shows its person, itself included; its recall is the
    fraction of the items of its person that are in its cluster.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        The agreement.

    Examples:
        >>> b_cubed(np.array([1, 1, 2]), np.array([5, 5, 5])).recall
        1.0
    """
    precision, recall = b_cubed_items(people, clusters)
    return _agreement(float(precision.mean()), float(recall.mean()))


def b_cubed_items(people: Labels, clusters: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the B-cubed precision and recall of each item.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        Precision and recall, both (N,) float64.
    """
    counts = _count(people, clusters)
    precision, recall = counts.cells / counts.of_cluster, counts.cells / counts.of_person
    return precision[counts.cell], recall[counts.cell]


def pairwise(people: Labels, clusters: Labels) -> Agreement:
    """Compute the agreement on pairs of items: precision of pairs in one cluster, recall of pairs of one person.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        The agreement; a fraction is 0 if there are no pairs.

    Examples:
        >>> pairwise(np.array([1, 1, 2]), np.array([5, 5, 5])).recall
        1.0
    """
    counts = _count(people, clusters)
    # Sums over cells: all items of a cell have the same number of partners.
    together, of_cluster, of_person = (
        float((counts.cells * (sizes - 1)).sum()) for sizes in (counts.cells, counts.of_cluster, counts.of_person)
    )
    return _agreement(together / max(1.0, of_cluster), together / max(1.0, of_person))


def clustering_metrics(people: Labels, clusters: Labels) -> dict[str, Any]:
    """Compute all clustering metrics, for `metrics.json`, with intervals over people for means over items.

    Args:
        people: (N,) integer, the person of each item.
        clusters: (N,) integer, the cluster of each item.

    Returns:
        The metrics by name.
    """
    precision, recall = b_cubed_items(people, clusters)
    values = {"precision": torch.from_numpy(precision), "recall": torch.from_numpy(recall)}
    return {
        "n_items": len(people),
        "n_people": len(np.unique(people)),
        "n_clusters": len(np.unique(clusters)),
        "weighted_purity": weighted_purity(people, clusters),
        "nmi": normalized_mutual_information(people, clusters),
        "b_cubed": b_cubed(people, clusters)._asdict(),
        "b_cubed_interval": means_over_people([(torch.from_numpy(people.astype(np.int64)), values)])[1],
        "pairwise": pairwise(people, clusters)._asdict(),
    }


def _count(people: Labels, clusters: Labels) -> _Counts:
    if people.shape != clusters.shape or people.ndim != 1 or not len(people):
        raise ValueError(f"people and clusters must be (N,) with N > 0, not {people.shape} and {clusters.shape}")
    person, cluster = (np.unique(labels, return_inverse=True)[1] for labels in (people, clusters))
    pairs, cell, cells = np.unique(np.stack([person, cluster]), axis=1, return_inverse=True, return_counts=True)
    of_person, of_cluster = np.bincount(person)[pairs[0]], np.bincount(cluster)[pairs[1]]
    return _Counts(cells, of_person, of_cluster, cell.reshape(-1), pairs[1])


def _agreement(precision: float, recall: float) -> Agreement:
    return Agreement(precision, recall, 2 * precision * recall / max(1e-9, precision + recall))
