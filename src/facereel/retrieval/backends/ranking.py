"""Functions shared by all backends: check a query, and rank by distance and id."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.functional import pack_codes
from facereel.functional.asymmetric import QUERIES_AT_ONCE, byte_tables, look_up
from facereel.retrieval.backends.code_part import CodePart

# Number of extra codes to request from a backend, to see all that tie with the last one.
MORE = 64

# Number of codes to compare with real-valued queries at a time: their distances fit into the processor's cache.
_CODES_AT_ONCE = 2**14

# Distances, and ids or positions, of the codes found for one query.
Found = tuple[NDArray[Any], NDArray[np.int64]]


def pack(codes: Tensor, n_bits: int) -> NDArray[np.uint8]:
    """Pack codes into bytes.

    Args:
        codes: (N, K) bool.
        n_bits: K.

    Returns:
        (N, ceil(K / 8)) uint8.

    Raises:
        ValueError: if the shape is wrong.
    """
    if codes.ndim != 2 or codes.shape[1] != n_bits:
        raise ValueError(f"codes must be bool (N, {n_bits}), not {codes.dtype} {tuple(codes.shape)}")
    return pack_codes(codes.cpu()).numpy()


def check_new_ids(ids: NDArray[np.int64], n_codes: int) -> None:
    """Check the ids of new codes.

    Args:
        ids: (N,) ids.
        n_codes: N.

    Raises:
        ValueError: if the shape is wrong, or an id is negative or a duplicate.
    """
    if ids.shape != (n_codes,) or (ids < 0).any():
        raise ValueError(f"ids must have the shape ({n_codes},) and be non-negative")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("ids must be unique")


def check_query(codes: Tensor, k: int, scores: Tensor | None, rerank_k: int | None) -> None:
    """Check the arguments of a search; see `CodeIndex.search`.

    Args:
        codes: (Q, K) bool, the queries.
        k: number of codes to find.
        scores: (Q, K) real-valued outputs of the queries, or None.
        rerank_k: number of codes to rank by scores, or None.

    Raises:
        ValueError: if an argument is invalid.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if rerank_k is not None and (scores is None or rerank_k < 1):
        raise ValueError(f"rerank_k={rerank_k}: must be at least 1, and requires scores")
    if scores is not None and (scores.shape != codes.shape or not scores.isfinite().all()):
        raise ValueError(
            f"scores must be finite and have the shape of the codes, {tuple(codes.shape)}, not {tuple(scores.shape)}"
        )


def first_by_distance(distances: NDArray[Any], ids: NDArray[np.int64], k: int | None = None) -> Found:
    """Sort codes by distance, then by id.

    Args:
        distances: (N,) distances.
        ids: (N,) ids.
        k: number of codes to return; None returns all.

    Returns:
        The first k distances and ids.
    """
    if k is not None and k < len(distances):
        near = distances <= np.partition(distances, k - 1)[k - 1]
        distances, ids = distances[near], ids[near]
    order = np.lexsort((ids, distances))[:k]
    return distances[order], ids[order]


def first_by_scores(scores: Tensor, codes: NDArray[np.uint8], ids: NDArray[np.int64], k: int) -> Found:
    """Return distances and ids of the k (N, W) packed codes with the smallest asymmetric distance to (K,) scores."""
    return first_by_distance(_table_distances(byte_tables(scores[None]), codes)[0], ids, k)


def scan_by_scores(scores: Tensor, parts: Iterable[CodePart], k: int) -> Iterator[Found]:
    """Find the codes with the smallest asymmetric distance to each query, using memory for a few codes at a time.

    Args:
        scores: (Q, K) real-valued outputs of the queries.
        parts: the codes.
        k: number of codes to find.

    Yields:
        For each query the first k distances and ids.
    """
    found = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(scores)
    bounds = np.full(len(scores), np.inf, np.float32)  # for each query the k-th distance so far
    starts = range(0, len(scores), QUERIES_AT_ONCE)
    tables = [byte_tables(scores[start : start + QUERIES_AT_ONCE]) for start in starts]
    for ids, codes in (block.kept() for part in parts for block in part.blocks(_CODES_AT_ONCE)):
        for q, distances in enumerate(chain.from_iterable(_table_distances(some, codes) for some in tables)):
            near = distances <= bounds[q]
            nearest = np.concatenate([found[q][0], distances[near]])
            nearest_ids = np.concatenate([found[q][1], ids[near]])
            if len(nearest) >= k + _CODES_AT_ONCE:
                nearest, nearest_ids = first_by_distance(nearest, nearest_ids, k)
                bounds[q] = nearest[-1]
            found[q] = nearest, nearest_ids
    yield from (first_by_distance(*its, k) for its in found)


def to_tensors(found: Sequence[Found], n_queries: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Stack the results of all queries.

    Args:
        found: distances and ids of each query.
        n_queries: Q.
        k: maximum number of codes per query.
        dtype: dtype of the distances.

    Returns:
        (Q, k') distances and (Q, k') int64 ids; k' is the smallest number of results of a query, at most k.
    """
    k = min((len(ids) for _, ids in found), default=k)
    distances = torch.zeros(n_queries, k, dtype=dtype)
    ids = torch.zeros(n_queries, k, dtype=torch.int64)
    for q, (nearest, nearest_ids) in enumerate(found):
        distances[q], ids[q] = torch.from_numpy(nearest[:k]), torch.from_numpy(nearest_ids[:k])
    return distances, ids


def _table_distances(tables: Tensor, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (Q, N) distances from (W, 256, Q) tables and (N, W) codes.

    They are rounded from float64, so that ties stay ties in any order of summation.
    """
    return np.ascontiguousarray(look_up(tables, torch.tensor(codes)).numpy(), dtype=np.float32)
