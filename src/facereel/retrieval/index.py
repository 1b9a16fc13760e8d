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
from facereel.files import read_json, sha256_of, write_beside
from facereel.functional import pack_codes
from facereel.functional.asymmetric import QUERIES_AT_ONCE, byte_tables, look_up
from facereel.optional import import_faiss
from facereel.retrieval.approximate import FEWEST, KINDS, approximate_index, gpu_index
from facereel.seal import is_sealed, seal

INDEX_FILE = "codes.faiss"
NEAR_FILE = "near.faiss"
META_FILE = "index.json"

# No code is longer: an index that says so would take all memory.
MOST_BITS = 2**16

# Codes compared with real-valued queries at once: their distances stay in the cache.
_CODES_AT_ONCE = 2**14

# Asked for beyond the nearest, to see all that tie with the last without going through all codes again.
_MORE = 64

# A GPU finds no more at once.
_MOST_ON_GPU = 2048

# Distances, and ids or places, of what one query finds.
_Found = tuple[NDArray[Any], NDArray[np.int64]]


class CodeIndex:
    """Binary codes searched by Hamming distance. They are padded to whole bytes, which leaves distances as they are.

    Args:
        n_bits: K, the length of a code.
        kind: "flat" looks at all codes: exact, on a GPU if faiss-gpu and one are there. "ivf", "hash" and "hnsw", see
            `approximate_index`, look at a part once `save` or `build` made what they need, and at all again after a
            change. `within`, `where`, and scores without a shortlist are exact whatever the kind.

    Raises:
        UserError: if FAISS is not installed.
        ValueError: for another kind.

    Examples:
        >>> index = CodeIndex(4)
        >>> index.add(torch.tensor([[True, True, False, False], [True, False, False, False]]), torch.tensor([7, 8]))
        >>> index.search(torch.tensor([[True, True, True, False]]), k=2)
        (tensor([[1, 2]]), tensor([[7, 8]]))
    """

    max_k: int | None = None
    """Finds no more at once; None if there is no limit."""

    def __init__(self, n_bits: int, kind: str = "flat") -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
        self.n_bits = n_bits
        self.kind = kind
        self._index = _empty(8 * -(-n_bits // 8))
        self._near: Any = None  # the approximate index of the codes as they are, places for ids
        self._on_gpu: Any = None

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
        if len(np.unique(ids)) < len(ids) or self._holds_any(ids):
            raise ValueError("an id is given twice or held already")
        self._put(codes, ids)

    def remove(self, ids: Tensor) -> int:
        """Remove ids, those held among them.

        Returns:
            How many were removed.
        """
        self._to_change()
        return int(self._index.remove_ids(ids.cpu().numpy().astype(np.int64)))

    def build(self) -> bool:
        """Make what a kind other than flat searches with, as `save` does; of fewer than 10,000 codes there is none.

        Returns:
            Whether it was made now.
        """
        if self.kind == "flat" or self._near is not None or len(self) < FEWEST:
            return False
        self._near = approximate_index(self.kind, self._held()[0], self.n_bits)
        return True

    def _holds_any(self, ids: NDArray[np.int64]) -> bool:
        return bool(np.isin(ids, self.ids).any())

    def _put(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        self._to_change()
        self._index.add_with_ids(codes, ids)

    def _to_change(self) -> None:
        """Forget what was made of the codes as they are, and copy them if they are in a mapped file."""
        self._near = self._on_gpu = None
        if not self._flat().xb.is_owned:
            codes, ids = self.packed, self.ids
            self._index = _empty(self._index.d)
            self._index.add_with_ids(codes, ids)

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
        found: list[_Found] = []
        if k > 0 and scores is None:
            found = list(index._by_hamming(packed, k))
        elif k > 0 and scores is not None:
            found = list(
                index._by_shortlist(packed, scores, k, shortlist) if shortlist else index._by_scores(scores, k)
            )
        k = min((len(its_ids) for _, its_ids in found), default=k)  # fewer if others removed some from Milvus meanwhile
        distances = torch.zeros(len(codes), k, dtype=torch.int64 if scores is None else torch.float32)
        ids = torch.zeros(len(codes), k, dtype=torch.int64)
        for q, (nearest, its_ids) in enumerate(found):
            distances[q], ids[q] = torch.from_numpy(nearest[:k]), torch.from_numpy(its_ids[:k])
        return distances, ids

    def _by_hamming(self, packed: NDArray[np.uint8], k: int) -> Iterator[_Found]:
        _, ids = self._held()
        for distances, places in self._candidates(packed, k):
            yield first_by_distance(distances.astype(np.int64), ids[places], k)

    def _by_shortlist(self, packed: NDArray[np.uint8], scores: Tensor, k: int, shortlist: int) -> Iterator[_Found]:
        held, ids = self._held()
        for q, (_, places) in enumerate(self._candidates(packed, max(k, shortlist))):
            yield first_by_distance(table_distances(byte_tables(scores[q : q + 1]), held[places])[0], ids[places], k)

    def _by_scores(self, scores: Tensor, k: int) -> Iterator[_Found]:
        held, ids = self._held()
        for first in range(0, len(scores), QUERIES_AT_ONCE):
            some = scores[first : first + QUERIES_AT_ONCE]
            tables = byte_tables(some)
            found = [(np.zeros(0, np.float32), ids[:0])] * len(some)
            bounds = np.full(len(some), np.inf, np.float32)  # of each query the k-th distance so far
            for start in range(0, len(held), _CODES_AT_ONCE):
                block = slice(start, start + _CODES_AT_ONCE)
                for q, distances in enumerate(table_distances(tables, held[block])):
                    near = distances <= bounds[q]
                    nearest = np.concatenate([found[q][0], distances[near]])
                    its_ids = np.concatenate([found[q][1], ids[block][near]])
                    if len(nearest) >= k + _CODES_AT_ONCE:
                        nearest, its_ids = first_by_distance(nearest, its_ids, k)
                        bounds[q] = nearest[-1]
                    found[q] = nearest, its_ids
            yield from (first_by_distance(nearest, its_ids, k) for nearest, its_ids in found)

    def _candidates(self, packed: NDArray[np.uint8], n: int) -> Iterator[_Found]:
        """Of each query the Hamming distances and places of at least n codes near it, if so many are held."""
        if self._near is None:
            yield from self._whole_ties(packed, n)
            return
        found, places = self._near.search(packed, min(2 * n + _MORE, len(self)))
        for q, (nearest, its_places) in enumerate(zip(found, places, strict=True)):
            there = its_places >= 0  # -1 where it looked at fewer codes
            if there.sum() < min(n, len(self)):
                yield from self._whole_ties(packed[q : q + 1], n)
            else:
                yield nearest[there], its_places[there]

    def _whole_ties(self, packed: NDArray[np.uint8], n: int) -> Iterator[_Found]:
        """Of each query the Hamming distances and places of its n nearest codes and all that tie with the last.

        FAISS breaks a tie at the last place as it likes.
        """
        flat, wanted = self._flat(), min(2 * n + _MORE, len(self))
        found, places = (flat if wanted > _MOST_ON_GPU else self._flat_or_gpu()).search(packed, wanted)
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
        """Write codes.faiss, near.faiss if `kind` needs it, and index.json; each appears whole or not at all.

        near.faiss bears this user's seal: `load` leaves that of anybody else, and all codes are looked at.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.build()
        (folder / NEAR_FILE).unlink(missing_ok=True)  # of other codes
        meta: dict[str, object] = {"n_bits": self.n_bits, "n_codes": len(self), "kind": self.kind}
        with write_beside(folder / INDEX_FILE) as path:
            import_faiss().write_index_binary(self._index, str(path))
        if self._near is not None:
            with write_beside(folder / NEAR_FILE) as path:
                import_faiss().write_index_binary(self._near, str(path))
                meta["near"] = seal(sha256_of(path))
        with write_beside(folder / META_FILE) as path:
            path.write_text(json.dumps(meta), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, mapped: bool = False) -> CodeIndex:
        """Read what `save` wrote.

        Args:
            folder: where.
            mapped: leave the codes in the file, from which the system reads what is looked at and of which processes
                share the memory; a change copies them. The file must not be written to meanwhile, only replaced.

        Raises:
            UserError: if the folder holds no index, or a damaged one.
        """
        folder = Path(folder)
        faiss = import_faiss()
        try:
            meta = read_json(folder / META_FILE)
            if not 0 < meta["n_bits"] <= MOST_BITS:
                raise ValueError("no length of a code")
            index = cls(meta["n_bits"], meta.get("kind", "flat"))
            if not _is_whole(folder / INDEX_FILE, index._index.d, meta["n_codes"]):
                raise ValueError("codes and description differ")
            # An empty file cannot be mapped, nor can one of no codes.
            flags = faiss.IO_FLAG_MMAP_IFC if mapped and meta["n_codes"] else 0
            index._index = faiss.read_index_binary(str(folder / INDEX_FILE), flags)
            near = folder / NEAR_FILE
            # No bounds tell whether FAISS survives one of these: what this user did not make is not read.
            if near.is_file() and is_sealed(sha256_of(near), meta.get("near")):
                found = faiss.read_index_binary(str(near))
                if (found.d, found.ntotal) != (index._index.d, len(index)):
                    raise ValueError("codes and what is made of them differ")
                index._near = found
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no index: {META_FILE} or {INDEX_FILE} is absent") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error) as error:
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
        only._index.add_with_ids(held[kept], ids[kept])
        only._on_gpu = only._flat(), None  # whose copy to a GPU would take longer than the search
        return only

    def _flat(self) -> Any:
        return import_faiss().downcast_IndexBinary(self._index.index)

    def _flat_or_gpu(self) -> Any:
        if self._on_gpu is None:
            self._on_gpu = gpu_index(self._flat()) or (self._flat(), None)
        return self._on_gpu[0]

    def _held(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Codes (N, W) and ids (N,), N > 0, where FAISS holds them: not copied, and good until the next change."""
        codes, ids = self._flat().xb, self._index.id_map
        pointer = import_faiss().rev_swig_ptr
        return pointer(codes.data(), codes.size()).reshape(len(self), -1), pointer(ids.data(), ids.size())


def _empty(width: int) -> Any:
    """Without FAISS's map back from ids to codes, which takes more memory than the codes and serves no search."""
    faiss = import_faiss()
    return faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(width))


def _is_whole(path: Path, n_bits: int, n_codes: int) -> bool:
    """Whether a file is FAISS's flat index of so many codes under ids, byte for byte but for codes and ids.

    FAISS believes what a file says of itself: a changed length makes it take all memory there is, or end the process.
    """
    width = n_bits // 8
    # Dimension, bytes a code, codes, whether it is trained, metric.
    header = struct.pack("<iiq?i", n_bits, width, n_codes, True, 1)
    before_codes = header + b"IBxF" + header + struct.pack("<Q", n_codes * width)
    before_ids = struct.pack("<Q", n_codes)
    with path.open("rb") as file:
        kind, found = file.read(4), file.read(len(before_codes))
        if kind not in (b"IBMp", b"IBM2") or found != before_codes:  # the latter with a map back, as of versions before
            return False
        file.seek(n_codes * width, 1)
        return file.read(len(before_ids)) == before_ids and path.stat().st_size == file.tell() + 8 * n_codes


def table_distances(tables: Tensor, held: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(W, 256, Q) and (N, W) -> (Q, N). Rounded from float64, so that whatever order sums are in, ties stay ties."""
    return np.ascontiguousarray(look_up(tables, torch.from_numpy(held)).numpy(), dtype=np.float32)


def first_by_distance(distances: NDArray[Any], ids: NDArray[np.int64], k: int) -> _Found:
    """The first k by distance and id."""
    if k < len(distances):
        near = distances <= np.partition(distances, k - 1)[k - 1]
        distances, ids = distances[near], ids[near]
    order = np.lexsort((ids, distances))[:k]
    return distances[order], ids[order]
