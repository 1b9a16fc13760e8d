"""Average precision of rankings with ties.

Hamming distances are small integers, so many gallery items tie. The expected average precision over random orders of
tied items has a closed form (McSherry and Najork 2008; for hashing He, Cakir, Bargal and Sclaroff 2018). It needs two
histograms per query: the items and the relevant items at each distance.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.functional.hamming import bit_distance, gallery_factor, multiply_distances, query_factor

TIES = ("expected", "best", "worst", "database_order")

# Elements of a distance matrix in memory: 4 MB in float32, 8 MB in int64.
_CHUNK_ELEMENTS = 2**20
# Gallery items in one block of that matrix: the product is fastest for many queries and few items.
_BLOCK_COLUMNS = 2**10
# On a CPU, packed gallery items that are compared at a time, so that they stay in the cache.
_PACKED_COLUMNS = 2**16


def mean_average_precision(
    query_codes: Tensor,
    gallery_codes: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    ties: str = "expected",
    exclude: Tensor | None = None,
) -> float:
    """Compute the mean average precision over the full Hamming ranking.

    Args:
        query_codes: (Q, K) bool.
        gallery_codes: (N, K) bool.
        query_labels: (Q,) integer.
        gallery_labels: (N,) integer; an item is relevant to a query with the same label.
        ties: "expected" value over random orders of tied items, "best" or "worst" of these orders, or "database_order",
            which keeps the order of the gallery.
        exclude: (Q,) integer, a gallery row to exclude for each query, -1 for no row; or (Q, N) bool, True to exclude.

    Returns:
        The mean over queries with at least one relevant item, in 0..1; NaN if there is no such query.

    Raises:
        ValueError: if a shape or type is wrong or `ties` is unknown.

    Examples:
        >>> codes = torch.tensor([[True, True], [True, False]])
        >>> mean_average_precision(codes[:1], codes, torch.tensor([1]), torch.tensor([0, 1]))
        0.5
    """
    if ties not in TIES:
        raise ValueError(f"ties must be one of {', '.join(TIES)}, not {ties!r}")
    if ties == "database_order":
        precisions = _in_database_order(query_codes, gallery_codes, query_labels, gallery_labels, exclude)
    else:
        histograms = hamming_histograms(query_codes, gallery_codes, query_labels, gallery_labels, exclude)
        precisions = average_precision(*histograms, ties=ties)
    return float(precisions.nanmean())


def average_precision(n_items: Tensor, n_relevant: Tensor, *, ties: str = "expected") -> Tensor:
    """Compute the average precision of each query from its histograms over distances.

    Consider a group of n tied items, r of them relevant, after N items, R of them relevant. In a random order the item
    at place i of the group is relevant with probability r / n; the expected number of relevant items before it in the
    group is then (i - 1)(r - 1) / (n - 1). The group adds (r / n) sum_i [R + 1 + (i - 1)(r - 1) / (n - 1)] / (N + i),
    which is computed from two harmonic sums.

    Args:
        n_items: (Q, G) integer, the number of gallery items in each group of equal distance, nearest first.
        n_relevant: (Q, G) integer, the number of relevant items in each group.
        ties: "expected", "best" or "worst"; see `mean_average_precision`.

    Returns:
        (Q,) float64 in 0..1, NaN for a query without a relevant item.

    Raises:
        ValueError: if `ties` is unknown or shapes differ.

    Examples:
        >>> average_precision(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]))
        tensor([0.4167], dtype=torch.float64)
    """
    if n_items.shape != n_relevant.shape or n_items.ndim != 2:
        raise ValueError(f"both histograms must be (Q, G), not {tuple(n_items.shape)} and {tuple(n_relevant.shape)}")
    items_before = n_items.cumsum(dim=1) - n_items
    found_before = (n_relevant.cumsum(dim=1) - n_relevant).double()
    largest = int(n_items.sum(dim=1).max()) if n_items.numel() else 0
    steps = torch.arange(1, largest + 1, dtype=torch.float64, device=n_items.device)
    harmonic = torch.nn.functional.pad((1 / steps).cumsum(dim=0), (1, 0))  # harmonic[i] = 1 + 1/2 + ... + 1/i
    n, r = n_items.double(), n_relevant.double()
    if ties == "expected":
        inverse_ranks = harmonic[items_before + n_items] - harmonic[items_before]
        beyond = n - (items_before + 1) * inverse_ranks  # sum of (i - 1) / (N + i)
        fraction = (r - 1).clamp_min(0) / (n - 1).clamp_min(1)
        gained = r / n.clamp_min(1) * ((found_before + 1) * inverse_ranks + fraction * beyond)
    elif ties in ("best", "worst"):
        # The relevant items follow `ahead` others: the sum of (R + j) / (ahead + j) over j = 1..r.
        ahead = items_before if ties == "best" else items_before + n_items - n_relevant
        gained = r + (found_before - ahead) * (harmonic[ahead + n_relevant] - harmonic[ahead])
    else:
        raise ValueError(f"ties must be 'expected', 'best' or 'worst', not {ties!r}")
    return gained.sum(dim=1) / torch.where(r.sum(dim=1) > 0, r.sum(dim=1), torch.nan)


def hamming_histograms(
    query_codes: Tensor,
    gallery_codes: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Count the gallery items and the relevant ones at every Hamming distance from each query.

    Args:
        query_codes: (Q, K) bool.
        gallery_codes: (N, K) bool.
        query_labels: (Q,) integer.
        gallery_labels: (N,) integer.
        exclude: rows to exclude, as in `mean_average_precision`.

    Returns:
        The numbers of items and of relevant items at distance 0..K, both (Q, K + 1) int64.

    Raises:
        ValueError: if a shape or type is wrong.

    Examples:
        >>> codes = torch.tensor([[True, True], [True, False]])
        >>> hamming_histograms(codes[:1], codes, torch.tensor([1]), torch.tensor([0, 1]))
        (tensor([[1, 1, 0]]), tensor([[0, 1, 0]]))
    """
    _check(query_codes, gallery_codes, query_labels, gallery_labels)
    exclude = _checked_exclude(exclude, len(query_codes), len(gallery_codes))
    # In a gallery sorted by label, the relevant items of a query are contiguous.
    labels, order = gallery_labels.long().sort(stable=True)
    wanted = query_labels.long().contiguous()
    runs = torch.searchsorted(labels, wanted), torch.searchsorted(labels, wanted, right=True)
    count = _count_packed if query_codes.device.type == "cpu" else _count_by_products
    return count(query_codes, gallery_codes, runs, order, exclude)


def _count_packed(
    query_codes: Tensor, gallery_codes: Tensor, runs: tuple[Tensor, Tensor], order: Tensor, exclude: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Count by XOR and popcount on 64-bit words, in threads that do not wait for each other.

    Args:
        query_codes: (Q, K) bool.
        gallery_codes: (N, K) bool.
        runs: (Q,) start and end of the relevant items of each query in `order`.
        order: (N,) gallery rows sorted by label.
        exclude: checked rows to exclude.

    Returns:
        The two histograms of `hamming_histograms`.
    """
    n_groups = query_codes.shape[1] + 1
    queries, gallery = _words(query_codes), _words(gallery_codes[order])
    first, last = (side.numpy() for side in runs)
    items = np.zeros((len(query_codes), n_groups), np.int64)
    relevant = np.zeros_like(items)
    mask = exclude[:, order].numpy() if exclude is not None and exclude.dtype == torch.bool else None
    narrow = np.uint8 if n_groups <= 2**8 else np.uint32

    def count(rows: slice) -> None:
        for columns in _chunks(gallery.shape[1], _PACKED_COLUMNS):
            block = gallery[:, columns]
            differing, ones = np.empty(block.shape[1], np.uint64), np.empty(block.shape[1], np.uint8)
            total, distances = np.empty(block.shape[1], narrow), np.empty(block.shape[1], np.intp)
            for row in range(rows.start, rows.stop):
                np.bitwise_xor(block[0], queries[0, row], out=differing)
                np.bitwise_count(differing, out=total)
                for word in range(1, len(block)):
                    np.bitwise_xor(block[word], queries[word, row], out=differing)
                    np.add(total, np.bitwise_count(differing, out=ones), out=total)
                distances[:] = total
                start, stop = (max(0, int(end[row]) - columns.start) for end in (first, last))
                for histogram, part in ((items, slice(None)), (relevant, slice(start, stop))):
                    chosen = distances[part]
                    if mask is not None:
                        chosen = chosen[~mask[row, columns][part]]
                    histogram[row] += np.bincount(chosen, minlength=n_groups)

    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads) as threads:
        # More parts than threads: a thread that other work delays takes fewer of them.
        list(threads.map(count, _chunks(len(query_codes), -(-len(query_codes) // (8 * n_threads)))))
    if exclude is not None and mask is None:
        excluding = torch.nonzero(exclude >= 0)[:, 0]
        rows = exclude[excluding].long()
        distances = (query_codes[excluding] != gallery_codes[rows]).sum(dim=1).numpy()
        places = order.argsort()[rows].numpy()
        queries_ = excluding.numpy()
        items[queries_, distances] -= 1
        relevant[queries_, distances] -= (first[queries_] <= places) & (places < last[queries_])
    return torch.from_numpy(items), torch.from_numpy(relevant)


def _words(codes: Tensor) -> NDArray[np.uint64]:
    """Pack (N, K) bool into (W, N) words of 64 bits, at least one, with zeros behind the K-th bit."""
    packed = np.packbits(codes.numpy(), axis=1)
    n_words = max(1, -(-packed.shape[1] // 8))
    padded = np.zeros((len(packed), 8 * n_words), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _count_by_products(
    query_codes: Tensor, gallery_codes: Tensor, runs: tuple[Tensor, Tensor], order: Tensor, exclude: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Count by blocks of a matrix product, on any device; see `_count_packed`."""
    n_groups = query_codes.shape[1] + 1
    first, last = runs
    items = torch.zeros(len(query_codes), n_groups, dtype=torch.int64, device=query_codes.device)
    relevant = torch.zeros_like(items)
    n_columns = min(_BLOCK_COLUMNS, max(1, len(gallery_codes)))
    n_rows = max(1, _CHUNK_ELEMENTS // n_columns)
    # Reused by all blocks: allocating memory would take as long as the sums.
    room = torch.empty(n_rows * n_columns, device=query_codes.device)
    cells_room = torch.empty_like(room, dtype=torch.int32)
    queries = query_factor(query_codes)
    for columns in _chunks(len(gallery_codes), n_columns):
        gallery = gallery_factor(gallery_codes[order[columns]])
        for rows in _chunks(len(query_codes), n_rows):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            distances, cells = (x[: shape[0] * shape[1]].view(shape) for x in (room, cells_room))
            multiply_distances(queries[rows], gallery, out=distances)
            # A cell is the index of query and distance in the flattened histogram.
            places = torch.arange(shape[0], device=room.device)
            cells.copy_(distances).add_((n_groups * places[:, None]).to(cells.dtype))
            start, stop = ((x[rows] - columns.start).clamp(0, shape[1]) for x in (first, last))
            matches = _runs(start + shape[1] * places, stop - start)
            chosen, chosen_matches = cells.flatten(), cells.flatten()[matches]
            if exclude is not None:
                kept = ~_excluded(exclude[rows], order[columns]).flatten()
                chosen, chosen_matches = chosen[kept], chosen_matches[kept[matches]]
            for histogram, counted in ((items, chosen), (relevant, chosen_matches)):
                histogram[rows] += torch.bincount(counted, minlength=shape[0] * n_groups).view(-1, n_groups)
    return items, relevant


def distance_histograms(distances: Tensor, relevant: Tensor, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Group equal real-valued distances, for `average_precision` of rankings by distances other than Hamming's.

    Args:
        distances: (Q, N) float, smaller is nearer; equal distances tie.
        relevant: (Q, N) bool.
        exclude: (Q, N) bool, True to exclude, or None.

    Returns:
        The numbers of items and of relevant items in each group, nearest first, both (Q, N) int64, padded with zeros.

    Raises:
        ValueError: if a shape or type is wrong, or a distance is NaN.

    Examples:
        >>> distance_histograms(torch.tensor([[0.5, 0.1, 0.5]]), torch.tensor([[True, False, False]]))
        (tensor([[1, 2, 0]]), tensor([[0, 1, 0]]))
    """
    if distances.shape != relevant.shape or distances.ndim != 2:
        raise ValueError(
            f"distances and relevant must be (Q, N), not {tuple(distances.shape)}, {tuple(relevant.shape)}"
        )
    if exclude is not None and (exclude.shape != distances.shape or exclude.dtype != torch.bool):
        raise ValueError(f"exclude must be bool (Q, N), not {exclude.dtype} {tuple(exclude.shape)}")
    if distances.isnan().any():
        raise ValueError("distances contain NaN, which cannot be ranked")
    kept = torch.ones_like(relevant) if exclude is None else ~exclude
    ordered, order = distances.sort(dim=1)
    starts = torch.nn.functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0))
    groups = starts.cumsum(dim=1)
    zeros = torch.zeros(distances.shape, dtype=torch.int64, device=distances.device)
    n_items = zeros.scatter_add(1, groups, kept.gather(1, order).long())
    n_relevant = zeros.scatter_add(1, groups, (kept & relevant).gather(1, order).long())
    return n_items, n_relevant


def expected_recall_at_k(n_items: Tensor, n_relevant: Tensor, k: int) -> Tensor:
    """Compute the probability that one of the first k items is relevant, over random orders of tied items.

    Args:
        n_items: (Q, G) integer histogram, as in `average_precision`.
        n_relevant: (Q, G) integer histogram, as in `average_precision`.
        k: number of items, >= 1.

    Returns:
        (Q,) float64 in 0..1.

    Raises:
        ValueError: if k < 1.

    Examples:
        >>> expected_recall_at_k(torch.tensor([[1, 4]]), torch.tensor([[0, 2]]), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    items_before = n_items.cumsum(dim=1) - n_items
    # The first `looked` places of each group count. A draw without replacement misses all r relevant items with
    # probability C(n - r, looked) / C(n, looked), computed with log-gamma so that large groups do not overflow.
    looked = (k - items_before).clamp_min(0).minimum(n_items).double()
    n, r = n_items.double(), n_relevant.double()
    possible = n - r >= looked
    log_miss = (
        torch.lgamma((n - r).clamp_min(0) + 1)
        - torch.lgamma((n - r - looked).clamp_min(0) + 1)
        - torch.lgamma(n + 1)
        + torch.lgamma(n - looked + 1)
    )
    miss = torch.where(possible, log_miss.exp(), 0.0)
    miss = torch.where((r == 0) | (looked == 0), 1.0, miss)
    return 1 - miss.prod(dim=1)


def _in_database_order(
    query_codes: Tensor,
    gallery_codes: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    exclude: Tensor | None,
) -> Tensor:
    _check(query_codes, gallery_codes, query_labels, gallery_labels)
    exclude = _checked_exclude(exclude, len(query_codes), len(gallery_codes))
    result = [torch.zeros(0, dtype=torch.float64, device=query_codes.device)]
    places = torch.arange(len(gallery_codes), device=query_codes.device)
    for rows in _chunks(len(query_codes), _CHUNK_ELEMENTS // max(1, len(gallery_codes))):
        order = bit_distance(query_codes[rows], gallery_codes).sort(dim=1, stable=True).indices
        kept = torch.ones_like(order, dtype=torch.bool)
        if exclude is not None:
            kept = ~_excluded(exclude[rows], places).gather(1, order)
        matches = (query_labels[rows, None] == gallery_labels[None, :]).gather(1, order) & kept
        precision = matches.cumsum(dim=1) / kept.cumsum(dim=1).clamp_min(1).double()
        n_relevant = matches.sum(dim=1)
        result.append((precision * matches).sum(dim=1) / torch.where(n_relevant > 0, n_relevant, torch.nan).double())
    return torch.cat(result)


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + max(1, size), length)) for start in range(0, length, max(1, size))]


def _runs(start: Tensor, length: Tensor) -> Tensor:
    """Return the concatenated ranges (sum of lengths,) of starts (R,) and lengths (R,)."""
    before = length.cumsum(dim=0) - length
    return (start - before).repeat_interleave(length) + torch.arange(int(length.sum()), device=start.device)


def _checked_exclude(exclude: Tensor | None, n_queries: int, n_gallery: int) -> Tensor | None:
    if exclude is None:
        return None
    shape = (n_queries, n_gallery) if exclude.dtype == torch.bool else (n_queries,)
    if exclude.shape != shape or exclude.is_floating_point():
        raise ValueError(f"exclude must be (Q,) integer or (Q, N) bool, not {exclude.dtype} {tuple(exclude.shape)}")
    if exclude.dtype != torch.bool and n_queries and int(exclude.max()) >= n_gallery:
        raise ValueError(f"exclude contains row {int(exclude.max())}, but the gallery has {n_gallery} rows")
    return exclude


def _excluded(exclude: Tensor, places: Tensor) -> Tensor:
    """Return either form of `exclude` as (Q, P) bool for P gallery places."""
    return exclude[:, places] if exclude.dtype == torch.bool else exclude[:, None] == places[None, :]


def _check(query_codes: Tensor, gallery_codes: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> None:
    for name, codes, labels in (("query", query_codes, query_labels), ("gallery", gallery_codes, gallery_labels)):
        if codes.ndim != 2 or codes.dtype != torch.bool:
            raise ValueError(f"{name}_codes must be bool (N, K), not {codes.dtype} {tuple(codes.shape)}")
        if labels.shape != codes.shape[:1] or labels.is_floating_point():
            raise ValueError(f"{name}_labels must be integer ({len(codes)},), not {labels.dtype} {tuple(labels.shape)}")
    if query_codes.shape[1] != gallery_codes.shape[1]:
        raise ValueError(f"query and gallery codes differ in length: {query_codes.shape[1]}, {gallery_codes.shape[1]}")
