"""The four search tasks and their metrics."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facereel.evaluation.encode import Encoded
from facereel.functional import (
    asymmetric_distance,
    average_precision,
    distance_histograms,
    expected_recall_at_k,
    hamming_histograms,
    mean_average_precision,
)
from facereel.functional.hamming import bit_distance

TASKS = ("still_to_clip", "clip_to_still", "clip_to_clip", "still_to_still")

# Metrics that are means of average precisions over queries.
PRECISIONS = ("mAP", "mAP_asymmetric", "mAP_real_valued")

# Number of elements of a real-valued distance matrix in memory.
_CHUNK_ELEMENTS = 2**24


@dataclass
class TaskResult:
    """Result of one task: its metrics, and the data of the report."""

    metrics: dict[str, float | int]
    precisions: dict[str, Tensor]
    """(Q,) float64 expected AP, NaN for a query without a match in the gallery, by the name of their mean: mAP (codes),
    mAP_asymmetric (real-valued query) and mAP_real_valued (real-valued on both sides)."""
    n_items: Tensor
    """(Q, K + 1), number of gallery items at each Hamming distance."""
    n_relevant: Tensor
    """(Q, K + 1), number of them that show the person of the query."""
    query: Encoded
    gallery: Encoded
    exclude: Tensor | None


def evaluate_codes(
    queries: dict[str, Encoded],
    gallery: dict[str, Encoded],
    leaves_out: str = "source",
    rerank_k: int | None = None,
) -> dict[str, TaskResult]:
    """Run every task for which there are queries and a gallery.

    Args:
        queries: items by kind, "still" and "clip", from `encode_part`.
        gallery: items by kind, as `queries`.
        leaves_out: what is excluded from the search of a query: gallery items of its "source", only the "item" itself,
            or "nothing".
        rerank_k: number of items that are ranked by real-valued queries for `mAP_reranked`; None skips that metric.

    Returns:
        Results by task name; a task without a match is omitted.
    """
    results = {}
    for task in TASKS:
        query_kind, _, gallery_kind = task.partition("_to_")
        if query_kind in queries and gallery_kind in gallery:
            result = evaluate_task(queries[query_kind], gallery[gallery_kind], leaves_out, rerank_k)
            if result.metrics["n_queries"] > result.metrics["n_queries_without_match"]:
                results[task] = result
    return results


def evaluate_task(
    query: Encoded, gallery: Encoded, leaves_out: str = "source", rerank_k: int | None = None
) -> TaskResult:
    """Search one gallery with all queries.

    Args:
        query: queries of one kind.
        gallery: items that are searched.
        leaves_out: as in `evaluate_codes`.
        rerank_k: as in `evaluate_codes`.

    Returns:
        The result, with the metrics of `metrics.json`: means over queries that have a match.
    """
    exclude = _EXCLUDE[leaves_out](query, gallery)
    arguments = (query.codes, gallery.codes, query.labels, gallery.labels)
    n_items, n_relevant = hamming_histograms(*arguments, exclude)
    expected = average_precision(n_items, n_relevant)
    has_match = ~expected.isnan()
    within_2, found_2 = (counts[:, :3].sum(dim=1) for counts in (n_items, n_relevant))
    precision_2 = found_2.double() / within_2.clamp_min(1)  # 0 if no item is that near
    precisions = {
        "mAP": expected,
        "mAP_asymmetric": ranked_precisions(
            query, gallery, lambda rows: asymmetric_distance(query.scores[rows], gallery.codes), exclude
        ),
        "mAP_real_valued": real_valued_precisions(query, gallery, gallery.scores, exclude),
    }
    metrics: dict[str, float | int] = {
        **{name: float(values.nanmean()) for name, values in precisions.items()},
        "mAP_best": float(average_precision(n_items, n_relevant, ties="best").nanmean()),
        "mAP_worst": float(average_precision(n_items, n_relevant, ties="worst").nanmean()),
        "mAP_stable_order": mean_average_precision(*arguments, ties="database_order", exclude=exclude),
        "n_queries": len(query),
        "n_queries_without_match": int((~has_match).sum()),
        "n_gallery": len(gallery),
        "recall_at_1": float(expected_recall_at_k(n_items, n_relevant, 1)[has_match].mean()),
        "recall_at_10": float(expected_recall_at_k(n_items, n_relevant, 10)[has_match].mean()),
        "precision_at_radius_2": float(precision_2[has_match].mean()),
    }
    if rerank_k is not None:
        metrics["mAP_reranked"] = reranked_map(query, gallery, n_items, rerank_k, exclude)
    return TaskResult(metrics, precisions, n_items, n_relevant, query, gallery, exclude)


def own_source(query: Encoded, gallery: Encoded) -> Tensor | None:
    """Find gallery items that come from the same source as a query.

    Args:
        query: Q queries.
        gallery: N items.

    Returns:
        (Q, N) bool, True for the same source; None if there is no such pair.
    """
    number: dict[str, int] = {}
    ids = [
        torch.tensor([number.setdefault(item.source, len(number)) for item in side.items]) for side in (query, gallery)
    ]
    exclude = ids[0][:, None] == ids[1][None, :]
    return exclude if exclude.any() else None


def own_item(query: Encoded, gallery: Encoded) -> Tensor | None:
    """Find gallery items that share an image with a query.

    Args:
        query: Q queries.
        gallery: N items.

    Returns:
        (Q, N) bool, True for a shared image; None if there is no such pair.
    """
    holders: dict[int, list[int]] = defaultdict(list)
    for n, item in enumerate(gallery.items):
        for row in item.rows:
            holders[row].append(n)
    exclude = torch.zeros(len(query), len(gallery), dtype=torch.bool)
    for q, item in enumerate(query.items):
        exclude[q, [n for row in item.rows for n in holders[row]]] = True
    return exclude if exclude.any() else None


_EXCLUDE: dict[str, Callable[[Encoded, Encoded], Tensor | None]] = {
    "source": own_source,
    "item": own_item,
    "nothing": lambda query, gallery: None,
}


def real_valued_precisions(query: Encoded, gallery: Encoded, gallery_values: Tensor, exclude: Tensor | None) -> Tensor:
    """Compute average precisions by Euclidean distance between scores of queries and values of the gallery.

    Args:
        query: Q queries.
        gallery: N items.
        gallery_values: (N, K) scores or codes of the gallery.
        exclude: (Q, N) bool, True to exclude, or None.

    Returns:
        (Q,) float64, NaN for a query without a match.
    """
    values = gallery_values.double()
    return ranked_precisions(query, gallery, lambda rows: torch.cdist(query.scores[rows].double(), values), exclude)


def reranked_map(query: Encoded, gallery: Encoded, n_items: Tensor, rerank_k: int, exclude: Tensor | None) -> float:
    """Compute the mean average precision after the nearest items by code are ranked again by real-valued queries.

    Args:
        query: Q queries.
        gallery: N items.
        n_items: (Q, K + 1), number of items at each Hamming distance, without excluded ones.
        rerank_k: at least this number of items, and all that tie with the last one, are ranked by the asymmetric
            distance; the others follow in Hamming order.
        exclude: (Q, N) bool, True to exclude, or None.

    Returns:
        The mean over queries with a match, in 0..1.
    """
    radius = (n_items.cumsum(dim=1) < rerank_k).sum(dim=1)

    def distances(rows: slice) -> Tensor:
        hamming = bit_distance(query.codes[rows], gallery.codes)
        asymmetric = asymmetric_distance(query.scores[rows], gallery.codes)
        return torch.where(hamming <= radius[rows, None], asymmetric, asymmetric.max() + 1 + hamming)

    return float(ranked_precisions(query, gallery, distances, exclude).nanmean())


def ranked_precisions(
    query: Encoded, gallery: Encoded, distances: Callable[[slice], Tensor], exclude: Tensor | None
) -> Tensor:
    """Compute average precisions, expected over ties, of a ranking by any distance.

    Args:
        query: Q queries.
        gallery: N items.
        distances: function that returns the distances (R, N) of a slice of the queries to the gallery.
        exclude: (Q, N) bool, True to exclude, or None.

    Returns:
        (Q,) float64, NaN for a query without a match.
    """
    values = []
    step = max(1, _CHUNK_ELEMENTS // max(1, len(gallery)))
    for start in range(0, len(query), step):
        rows = slice(start, start + step)
        relevant = query.labels[rows, None] == gallery.labels[None, :]
        left_out = None if exclude is None else exclude[rows]
        values.append(average_precision(*distance_histograms(distances(rows), relevant, left_out)))
    return torch.cat(values)


def mean_map(queries: dict[str, Encoded], gallery: dict[str, Encoded], real_valued: bool) -> float | None:
    """Compute the mean mAP over tasks, by which a checkpoint is chosen.

    Args:
        queries: items by kind, "still" and "clip".
        gallery: items by kind, as `queries`.
        real_valued: compare real-valued scores instead of codes.

    Returns:
        The mean, in 0..1; None if no task has a query with a match.
    """
    values = []
    for task in TASKS:
        query_kind, _, gallery_kind = task.partition("_to_")
        if query_kind in queries and gallery_kind in gallery:
            query, items = queries[query_kind], gallery[gallery_kind]
            exclude = own_source(query, items)
            if real_valued:
                value = float(real_valued_precisions(query, items, items.scores, exclude).nanmean())
            else:
                value = mean_average_precision(query.codes, items.codes, query.labels, items.labels, exclude=exclude)
            values.append(value)
    values = [value for value in values if value == value]
    return sum(values) / len(values) if values else None
