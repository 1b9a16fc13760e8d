"""`CodeIndex`: binary codes under integer ids, searched by FAISS."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.files import read_json, write_beside
from facereel.functional import pack_codes
from facereel.functional.asymmetric import QUERIES_AT_ONCE, byte_tables, look_up
from facereel.optional import import_faiss

INDEX_FILE = "codes.faiss"
META_FILE = "index.json"

# No code is longer: an index that says so would take all memory.
MOST_BITS = 2**16

# Codes compared with real-valued queries at once: their distances stay in the cache.
_CODES_AT_ONCE = 2**14

# Asked for beyond the nearest, to see all that tie with the last without going through all codes again.
_MORE = 64

# Distances, and ids or places, of what one query finds.
_Found = tuple[NDArray[Any], NDArray[np.int64]]


class CodeIndex:
    """An exact (flat) Hamming index. Codes are padded to whole bytes, which leaves distances as they are.

    Args:
        n_bits: K, the length of a code.

    Raises:
        UserError: if FAISS is not installed.

    Examples:
        >>> index = CodeIndex(4)
        >>> index.add(torch.tensor([[True, True, False, False], [True, False, False, False]]), torch.tensor([7, 8]))
        >>> index.search(torch.tensor([[True, True, True, False]]), k=2)
        (tensor([[1, 2]]), tensor([[7, 8]]))
    """

    def __init__(self, n_bits: int) -> None:
        faiss = import_faiss()
        self.n_bits = n_bits
        self._index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(8 * -(-n_bits // 8)))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) the ids held, in the order they were added."""
        return import_faiss().vector_to_array(self._index.id_map)

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) the codes held, as `pack_codes` makes them, in the order of `ids`."""
        return import_faiss().vector_to_array(self._flat().xb).reshape(len(self), -(-self.n_bits // 8))

    def add(self, codes: Tensor, ids: Tensor) -> None:
        """Add codes.

        Args:
            codes: (N, K) bool.
            ids: (N,) int64, >= 0, not yet held.

        Raises:
            ValueError: for wrong shapes, or an id that is negative, given twice or held already.
        """
        self.add_packed(self._packed(codes), ids.cpu().numpy().astype(np.int64))

    def add_packed(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add codes as `pack_codes` makes them: (N, ceil(K / 8)), under (N,) ids; else as `add`."""
        if ids.shape != (len(codes),) or (ids < 0).any():
            raise ValueError(f"ids must be ({len(codes)},) and not negative")
        if len(np.unique(ids)) < len(ids) or np.isin(ids, self.ids).any():
            raise ValueError("an id is given twice or held already")
        self._index.add_with_ids(codes, ids)

    def remove(self, ids: Tensor) -> int:
        """Remove ids, those held among them.

        Returns:
            How many were removed.
        """
        return int(self._index.remove_ids(ids.cpu().numpy().astype(np.int64)))

    def search(
        self,
        codes: Tensor,
        k: int,
        *,
        scores: Tensor | None = None,
        where: Tensor | None = None,
        shortlist: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest codes of each query, equal distances by id.

        Args:
            codes: (Q, K) bool, the queries.
            k: how many to find; fewer are returned if fewer are held.
            scores: (Q, K) float in 0..1, the real-valued outputs of the queries. If given, all codes are ranked by
                the asymmetric distance, the squared Euclidean one between a query's scores and a code.
            where: (M,) int64, search among these ids only.
            shortlist: with scores, rank only the codes within the smallest Hamming radius that holds so many, or k:
                much faster, and blind to what lies beyond.

        Returns:
            Distances (Q, k'), int64 Hamming ones or float32 asymmetric ones, and ids (Q, k') int64.

        Raises:
            ValueError: for wrong shapes, k < 1, shortlist < 1, or a shortlist without scores.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if shortlist is not None and (scores is None or shortlist < 1):
            raise ValueError(f"shortlist={shortlist}: must be at least 1, and needs scores")
        packed = self._packed(codes)
        if scores is not None and (scores.shape != codes.shape or not scores.isfinite().all()):
            raise ValueError(f"scores must be finite {tuple(codes.shape)}, as the codes, not {tuple(scores.shape)}")
        index = self if where is None else self._only(where)
        k = min(k, len(index))
        distances = torch.zeros(len(codes), k, dtype=torch.int64 if scores is None else torch.float32)
        ids = torch.zeros(len(codes), k, dtype=torch.int64)
        if k == 0:
            return distances, ids
        if scores is None:
            found = index._by_hamming(packed, k)
        elif shortlist is None:
            found = index._by_scores(scores, k)
        else:
            found = index._by_shortlist(packed, scores, k, shortlist)
        for q, (nearest, its_ids) in enumerate(found):
            distances[q], ids[q] = torch.from_numpy(nearest), torch.from_numpy(its_ids)
        return distances, ids

    def _by_hamming(self, packed: NDArray[np.uint8], k: int) -> Iterator[_Found]:
        _, ids = self._held()
        for distances, places in self._whole_ties(packed, k):
            yield _first(distances.astype(np.int64), ids[places], k)

    def _by_shortlist(self, packed: NDArray[np.uint8], scores: Tensor, k: int, shortlist: int) -> Iterator[_Found]:
        held, ids = self._held()
        for q, (_, places) in enumerate(self._whole_ties(packed, max(k, shortlist))):
            yield _first(_asymmetric(byte_tables(scores[q : q + 1]), held[places])[0], ids[places], k)

    def _by_scores(self, scores: Tensor, k: int) -> Iterator[_Found]:
        held, ids = self._held()
        for first in range(0, len(scores), QUERIES_AT_ONCE):
            some = scores[first : first + QUERIES_AT_ONCE]
            tables = byte_tables(some)
            found = [(np.zeros(0, np.float32), ids[:0])] * len(some)
            bounds = np.full(len(some), np.inf, np.float32)  # of each query the k-th distance so far
            for start in range(0, len(held), _CODES_AT_ONCE):
                block = slice(start, start + _CODES_AT_ONCE)
                for q, distances in enumerate(_asymmetric(tables, held[block])):
                    near = distances <= bounds[q]
                    nearest = np.concatenate([found[q][0], distances[near]])
                    its_ids = np.concatenate([found[q][1], ids[block][near]])
                    if len(nearest) >= k + _CODES_AT_ONCE:
                        nearest, its_ids = _first(nearest, its_ids, k)
                        bounds[q] = nearest[-1]
                    found[q] = nearest, its_ids
            yield from (_first(nearest, its_ids, k) for nearest, its_ids in found)

    def _whole_ties(self, packed: NDArray[np.uint8], n: int) -> Iterator[_Found]:
        """Of each query the Hamming distances and places of its n nearest codes and all that tie with the last.

        FAISS breaks a tie at the last place as it likes.
        """
        flat = self._flat()
        found, places = flat.search(packed, min(2 * n + _MORE, len(self)))
        for q, (nearest, its_places) in enumerate(zip(found, places, strict=True)):
            radius = int(nearest[min(n, len(self)) - 1])
            if nearest[-1] > radius or len(nearest) == len(self):
                tied = nearest <= radius
                yield nearest[tied], its_places[tied]
                continue
            # More tie than were asked for. FAISS finds distances strictly below its radius.
            _, distances, its_places = flat.range_search(packed[q : q + 1], radius + 1)
            yield distances, its_places

    def within(self, codes: Tensor, radius: int) -> list[tuple[Tensor, Tensor]]:
        """Find every code within a Hamming radius of each query.

        Args:
            codes: (Q, K) bool.
            radius: in bits, inclusive.

        Returns:
            For each query distances (M,) int64, ascending, and ids (M,) int64, ascending where distances are equal.
        """
        return [self._within(codes[q : q + 1], radius) for q in range(len(codes))]

    def _within(self, code: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        # FAISS finds distances strictly below its radius.
        _, distances, ids = self._index.range_search(self._packed(code), radius + 1)
        order = np.lexsort((ids, distances))
        return torch.from_numpy(distances[order].astype(np.int64)), torch.from_numpy(ids[order].astype(np.int64))

    def save(self, folder: str | Path) -> None:
        """Write codes.faiss and index.json; each appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with write_beside(folder / INDEX_FILE) as path:
            path.write_bytes(import_faiss().serialize_index_binary(self._index).tobytes())
        with write_beside(folder / META_FILE) as path:
            path.write_text(json.dumps({"n_bits": self.n_bits, "n_codes": len(self)}), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> CodeIndex:
        """Read what `save` wrote.

        Raises:
            UserError: if the folder holds no index, or a damaged one.
        """
        folder = Path(folder)
        try:
            meta = read_json(folder / META_FILE)
            if not 0 < meta["n_bits"] <= MOST_BITS:
                raise ValueError("no length of a code")
            index = cls(meta["n_bits"])
            content = np.fromfile(folder / INDEX_FILE, dtype=np.uint8)
            _check_layout(content, index._index.d, meta["n_codes"])
            found = import_faiss().deserialize_index_binary(content)
            if (found.d, found.ntotal) != (index._index.d, meta["n_codes"]):
                raise ValueError("codes and description differ")
            index._index = found
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no index: {META_FILE} or {INDEX_FILE} is absent") from error
        except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
            raise UserError(f"the index in {folder} is damaged: {META_FILE} or {INDEX_FILE}") from error
        return index

    def _packed(self, codes: Tensor) -> NDArray[np.uint8]:
        if codes.ndim != 2 or codes.shape[1] != self.n_bits:
            raise ValueError(f"codes must be bool (N, {self.n_bits}), not {codes.dtype} {tuple(codes.shape)}")
        return pack_codes(codes.cpu()).numpy()

    def _only(self, where: Tensor) -> CodeIndex:
        """An index to search in, of those among these ids that are held."""
        held, ids = self._held()
        kept = np.isin(ids, where.cpu().numpy())
        only = CodeIndex(self.n_bits)
        # Without the map back from ids to codes, which would take ten times as long and serves no search.
        only._index = import_faiss().IndexBinaryIDMap(import_faiss().IndexBinaryFlat(self._index.d))
        only._index.add_with_ids(held[kept], ids[kept])
        return only

    def _flat(self) -> Any:
        return import_faiss().downcast_IndexBinary(self._index.index)

    def _held(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Codes (N, W) and ids (N,), N > 0, where FAISS holds them: not copied, and good until the next change."""
        codes, ids = self._flat().xb, self._index.id_map
        pointer = import_faiss().rev_swig_ptr
        return pointer(codes.data(), codes.size()).reshape(len(self), -1), pointer(ids.data(), ids.size())


def _check_layout(content: NDArray[np.uint8], n_bits: int, n_codes: int) -> None:
    """Raise a ValueError unless a file is FAISS's of so many codes, byte for byte but for codes and ids.

    FAISS believes what a file says of itself: a changed length makes it take all memory there is.
    """
    width = n_bits // 8
    # Dimension, bytes a code, codes, whether it is trained, metric.
    header = struct.pack("<iiq?i", n_bits, width, n_codes, True, 1)
    before_codes = b"IBM2" + header + b"IBxF" + header + struct.pack("<Q", n_codes * width)
    before_ids = struct.pack("<Q", n_codes)
    at = len(before_codes) + n_codes * width
    is_whole = len(content) == at + len(before_ids) + 8 * n_codes
    found = bytes(content[: len(before_codes)]), bytes(content[at : at + len(before_ids)])
    if not is_whole or found != (before_codes, before_ids):
        raise ValueError("another layout")


def _asymmetric(tables: Tensor, held: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(W, 256, Q) and (N, W) -> (Q, N). Rounded from float64, so that whatever order sums are in, ties stay ties."""
    return np.ascontiguousarray(look_up(tables, torch.from_numpy(held)).numpy(), dtype=np.float32)


def _first(distances: NDArray[Any], ids: NDArray[np.int64], k: int) -> _Found:
    """The first k by distance and id."""
    if k < len(distances):
        near = distances <= np.partition(distances, k - 1)[k - 1]
        distances, ids = distances[near], ids[near]
    order = np.lexsort((ids, distances))[:k]
    return distances[order], ids[order]
