"""What all backends share: checks of a query, and ranking by distance and id."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.functional import pack_codes
from facereel.functional.asymmetric import QUERIES_AT_ONCE, byte_tables, look_up

# A backend is asked for this many codes beyond the nearest, to see all that tie with the last one.
MORE = 64

# Codes compared with real-valued queries at once: their distances fit the processor's cache.
_CODES_AT_ONCE = 2**14

# Distances, and ids or positions, of the codes found for one query.
Found = tuple[NDArray[Any], NDArray[np.int64]]


def pack(codes: Tensor, n_bits: int) -> NDArray[np.uint8]:
    """Pack (N, K) bool codes into bytes.

    Raises:
        ValueError: for another shape.
    """
    if codes.ndim != 2 or codes.shape[1] != n_bits:
        raise ValueError(f"codes must be bool (N, {n_bits}), not {codes.dtype} {tuple(codes.shape)}")
    return pack_codes(codes.cpu()).numpy()


def check_new_ids(ids: NDArray[np.int64], n_codes: int) -> None:
    """Raise a ValueError unless there is one id a code, none negative and none twice."""
    if ids.shape != (n_codes,) or (ids < 0).any():
        raise ValueError(f"ids must be ({n_codes},) and not negative")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("an id is given twice")


def check_query(codes: Tensor, k: int, scores: Tensor | None, rerank_k: int | None) -> None:
    """Raise a ValueError for arguments that no search takes; see `CodeIndex.search`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if rerank_k is not None and (scores is None or rerank_k < 1):
        raise ValueError(f"rerank_k={rerank_k}: must be at least 1, and needs scores")
    if scores is not None and (scores.shape != codes.shape or not scores.isfinite().all()):
        raise ValueError(f"scores must be finite {tuple(codes.shape)}, as the codes, not {tuple(scores.shape)}")


def first_by_distance(distances: NDArray[Any], ids: NDArray[np.int64], k: int | None = None) -> Found:
    """Sort by distance, then by id, and return the first k, or all."""
    if k is not None and k < len(distances):
        near = distances <= np.partition(distances, k - 1)[k - 1]
        distances, ids = distances[near], ids[near]
    order = np.lexsort((ids, distances))[:k]
    return distances[order], ids[order]


def first_by_scores(scores: Tensor, codes: NDArray[np.uint8], ids: NDArray[np.int64], k: int) -> Found:
    """Return the k packed codes with the smallest asymmetric distance from one query's (K,) scores."""
    return first_by_distance(_table_distances(byte_tables(scores[None]), codes)[0], ids, k)


def scan_by_scores(scores: Tensor, codes: NDArray[np.uint8], ids: NDArray[np.int64], k: int) -> Iterator[Found]:
    """Yield for each query what `first_by_scores` returns, with memory for a part of the codes at a time."""
    for first in range(0, len(scores), QUERIES_AT_ONCE):
        some = scores[first : first + QUERIES_AT_ONCE]
        tables = byte_tables(some)
        found = [(np.zeros(0, np.float32), ids[:0])] * len(some)
        bounds = np.full(len(some), np.inf, np.float32)  # for each query the k-th distance so far
        for start in range(0, len(codes), _CODES_AT_ONCE):
            block = slice(start, start + _CODES_AT_ONCE)
            for q, distances in enumerate(_table_distances(tables, codes[block])):
                near = distances <= bounds[q]
                nearest = np.concatenate([found[q][0], distances[near]])
                nearest_ids = np.concatenate([found[q][1], ids[block][near]])
                if len(nearest) >= k + _CODES_AT_ONCE:
                    nearest, nearest_ids = first_by_distance(nearest, nearest_ids, k)
                    bounds[q] = nearest[-1]
                found[q] = nearest, nearest_ids
        yield from (first_by_distance(*its, k) for its in found)


def to_tensors(found: Sequence[Found], n_queries: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Stack what was found into distances (Q, k') and ids (Q, k'); k' is smaller where a query found less."""
    k = min((len(ids) for _, ids in found), default=k)
    distances = torch.zeros(n_queries, k, dtype=dtype)
    ids = torch.zeros(n_queries, k, dtype=torch.int64)
    for q, (nearest, nearest_ids) in enumerate(found):
        distances[q], ids[q] = torch.from_numpy(nearest[:k]), torch.from_numpy(nearest_ids[:k])
    return distances, ids


def _table_distances(tables: Tensor, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(W, 256, Q) and (N, W) -> (Q, N). Rounded from float64, so that ties stay ties in any order of summation."""
    return np.ascontiguousarray(look_up(tables, torch.from_numpy(codes)).numpy(), dtype=np.float32)
