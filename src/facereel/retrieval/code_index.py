"""`CodeIndex`: binary codes with integer ids, searched by FAISS."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.retrieval.backends.faiss import (
    FEWEST,
    KINDS,
    MOST_ON_GPU,
    flat_index,
    gpu_index,
    inverted_file,
    nearest_with_ties,
    read_flat,
)
from facereel.retrieval.backends.ranking import (
    MORE,
    Found,
    check_new_ids,
    check_query,
    first_by_distance,
    first_by_scores,
    pack,
    scan_by_scores,
    to_tensors,
)
from facereel.storage.files import atomic_write, sha256_of
from facereel.storage.signature import sign, verify
from facereel.storage.untrusted import read_json
from facereel.system.optional import import_faiss

INDEX_FILE = "codes.faiss"
NEAR_FILE = "near.faiss"
META_FILE = "index.json"

# An index that claims longer codes would take all memory.
MOST_BITS = 2**16


class CodeIndex:
    """Index of binary codes, searched by Hamming distance with FAISS.

    Codes are padded to whole bytes, which does not change distances.

    Args:
        n_bits: K, the length of a code in bits.
        kind: "flat" searches all codes exactly, on a GPU if faiss-gpu is installed and a GPU is available. "ivf"
            searches a part of them through the inverted file that `save` or `build` creates; after a change it searches
            all codes until the next `save` or `build`. `range_search`, `subset_ids`, and scores without `rerank_k` are
            exact with both kinds.

    Raises:
        UserError: if FAISS is not installed.
        ValueError: if `kind` is unknown.

    Examples:
        >>> index = CodeIndex(4)
        >>> index.add(torch.tensor([[True, True, False, False], [True, False, False, False]]), torch.tensor([7, 8]))
        >>> index.search(torch.tensor([[True, True, True, False]]), k=2)
        (tensor([[1, 2]]), tensor([[7, 8]]))
    """

    max_k: int | None = None

    def __init__(self, n_bits: int, kind: str = "flat") -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
        self.n_bits = n_bits
        self.kind = kind
        self._index = flat_index(-(-n_bits // 8))
        self._near: Any = None  # the inverted file of the current codes, with positions as ids
        self._on_gpu: Any = None

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids of the stored codes, in the order they were added."""
        return import_faiss().vector_to_array(self._index.id_map)

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) uint8 packed codes (see `pack_codes`), in the order of `ids`."""
        return import_faiss().vector_to_array(self._flat.xb).reshape(len(self), -(-self.n_bits // 8))

    def add(self, codes: Tensor, ids: Tensor) -> None:
        """Add codes.

        Args:
            codes: (N, K) bool.
            ids: (N,) int64, non-negative, unique and not yet stored.

        Raises:
            ValueError: if a shape is wrong, or an id is negative, a duplicate or already stored.
        """
        self.add_packed(pack(codes, self.n_bits), ids.cpu().numpy().astype(np.int64))

    def add_packed(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add packed codes.

        Args:
            codes: (N, ceil(K / 8)) uint8, packed by `pack_codes`.
            ids: (N,) int64, non-negative, unique and not yet stored.

        Raises:
            ValueError: if a shape is wrong, or an id is negative, a duplicate or already stored.
        """
        check_new_ids(ids, len(codes))
        stored = ids[np.isin(ids, self.ids)]
        if len(stored):
            raise ValueError(f"id {stored[0]} is already stored")
        self._prepare_change()
        self._index.add_with_ids(codes, ids)

    def remove(self, ids: Tensor) -> int:
        """Remove codes by id; ids that are not stored are ignored.

        Args:
            ids: (N,) int64.

        Returns:
            The number of removed codes.
        """
        self._prepare_change()
        return int(self._index.remove_ids(ids.cpu().numpy().astype(np.int64)))

    def build(self) -> bool:
        """Create the inverted file of kind "ivf", as `save` does, if there are at least 10,000 codes.

        Returns:
            Whether an inverted file was created.
        """
        if self.kind == "flat" or self._near is not None or len(self) < FEWEST:
            return False
        self._near = inverted_file(self._views()[0])
        return True

    def _prepare_change(self) -> None:
        """Drop everything derived from the current codes, and copy codes out of a memory-mapped file."""
        self._near = self._on_gpu = None
        if not self._flat.xb.is_owned:
            codes, ids = self.packed, self.ids
            self._index = flat_index(codes.shape[1])
            self._index.add_with_ids(codes, ids)

    def search(
        self,
        codes: Tensor,
        k: int,
        *,
        scores: Tensor | None = None,
        subset_ids: Tensor | None = None,
        rerank_k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest codes to each query; ties are sorted by id.

        Args:
            codes: (Q, K) bool, the queries.
            k: number of codes to find; fewer are returned if fewer are stored.
            scores: (Q, K) float in 0..1, the real-valued outputs of the queries. If given, all codes are ranked by
                the asymmetric distance: the squared Euclidean distance between a query's scores and a code.
            subset_ids: (M,) int64 ids to search in; None searches all.
            rerank_k: with scores, rank only the codes within the smallest Hamming radius that contains max(k, rerank_k)
                codes. This is much faster but misses codes beyond the radius.

        Returns:
            (Q, k') distances, int64 for Hamming or float32 for asymmetric distances, and (Q, k') int64 ids.

        Raises:
            ValueError: if a shape is wrong, k < 1, rerank_k < 1, or rerank_k is given without scores.
        """
        packed = pack(codes, self.n_bits)
        check_query(codes, k, scores, rerank_k)
        index = self if subset_ids is None else self._subset(subset_ids)
        k = min(k, len(index))
        found = [] if k == 0 else list(index._ranked(packed, k, scores, rerank_k))
        return to_tensors(found, len(codes), k, torch.int64 if scores is None else torch.float32)

    def _ranked(
        self, packed: NDArray[np.uint8], k: int, scores: Tensor | None, rerank_k: int | None
    ) -> Iterator[Found]:
        stored, ids = self._views()
        if scores is None:
            for distances, places in self._candidates(packed, k):
                yield first_by_distance(distances.astype(np.int64), ids[places], k)
        elif rerank_k is None:
            yield from scan_by_scores(scores, stored, ids, k)
        else:
            for own, (_, places) in zip(scores, self._candidates(packed, max(k, rerank_k)), strict=True):
                yield first_by_scores(own, stored[places], ids[places], k)

    def _candidates(self, packed: NDArray[np.uint8], n: int) -> Iterator[Found]:
        """Yield for each query the Hamming distances and positions of at least n near codes, or of all codes."""
        if self._near is None:
            yield from self._nearest(packed, n)
            return
        found, places = self._near.search(packed, min(2 * n + MORE, len(self)))
        for q, (distances, near) in enumerate(zip(found, places, strict=True)):
            is_found = near >= 0  # -1 where the cells have fewer codes
            if is_found.sum() < min(n, len(self)):
                yield from self._nearest(packed[q : q + 1], n)
            else:
                yield distances[is_found], near[is_found]

    def _nearest(self, packed: NDArray[np.uint8], n: int) -> Iterator[Found]:
        searched, wanted = self._flat, min(2 * n + MORE, len(self))
        if wanted <= MOST_ON_GPU:
            if self._on_gpu is None:
                self._on_gpu = gpu_index(self._flat) or (self._flat, None)
            searched = self._on_gpu[0]
        yield from nearest_with_ties(self._flat, searched.search(packed, wanted), packed, n)

    def range_search(self, codes: Tensor, radius: int) -> list[tuple[Tensor, Tensor]]:
        """Find every code within a Hamming radius of each query.

        Args:
            codes: (Q, K) bool, the queries.
            radius: maximum distance in bits, inclusive.

        Returns:
            For each query (M,) int64 distances in ascending order, and (M,) int64 ids, ascending among ties.
        """
        found = []
        for packed in pack(codes, self.n_bits):
            _, *near = self._index.range_search(packed[None], radius + 1)  # distances strictly below
            distances, ids = first_by_distance(*near)
            found.append((torch.from_numpy(distances.astype(np.int64)), torch.from_numpy(ids)))
        return found

    def save(self, folder: str | Path) -> None:
        """Write codes.faiss, near.faiss if there is an inverted file, and index.json, each atomically.

        near.faiss is signed with this user's key. `load` ignores the file of another user and searches all codes.

        Args:
            folder: folder to write, created if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.build()
        (folder / NEAR_FILE).unlink(missing_ok=True)  # it belongs to other codes
        meta: dict[str, object] = {"n_bits": self.n_bits, "n_codes": len(self), "kind": self.kind}
        with atomic_write(folder / INDEX_FILE) as path:
            import_faiss().write_index_binary(self._index, str(path))
        if self._near is not None:
            with atomic_write(folder / NEAR_FILE) as path:
                import_faiss().write_index_binary(self._near, str(path))
                meta["near"] = sign(sha256_of(path))
        with atomic_write(folder / META_FILE) as path:
            path.write_text(json.dumps(meta), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, mapped: bool = False) -> Self:
        """Load an index from a folder that `save` wrote.

        Args:
            folder: the folder.
            mapped: memory-map the codes: the system reads only what is searched, and processes share the memory. A
                change copies the codes. Until then the file may be replaced, but not written to.

        Returns:
            The index.

        Raises:
            UserError: if the folder has no index, or the index is damaged.
        """
        folder = Path(folder)
        near = folder / NEAR_FILE
        try:
            meta = read_json(folder / META_FILE)
            if not 0 < meta["n_bits"] <= MOST_BITS:
                raise ValueError("n_bits is out of range")
            index = cls(meta["n_bits"], meta.get("kind", "flat"))
            index._index = read_flat(folder / INDEX_FILE, index._index.d // 8, meta["n_codes"], mapped)
            # No check ensures that FAISS can read this file safely, so only files written by this user are read.
            if near.is_file() and verify(sha256_of(near), meta.get("near")):
                index._near = import_faiss().read_index_binary(str(near))
                if (index._near.d, index._near.ntotal) != (index._index.d, len(index)):
                    raise ValueError("the inverted file has other codes")
        except FileNotFoundError as error:
            raise UserError(f"{folder} has no index: {META_FILE} or {INDEX_FILE} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error) as error:
            raise UserError(f"the index in {folder} is damaged: {META_FILE} or {INDEX_FILE}") from error
        return index

    def _subset(self, ids: Tensor) -> "CodeIndex":
        """Return an index of the stored codes with the given ids."""
        subset = CodeIndex(self.n_bits)
        if len(self):
            stored, its_ids = self._views()
            kept = np.isin(its_ids, ids.cpu().numpy())
            subset._index.add_with_ids(stored[kept], its_ids[kept])
        subset._on_gpu = subset._flat, None  # a copy to the GPU would take longer than the search
        return subset

    @property
    def _flat(self) -> Any:
        return import_faiss().downcast_IndexBinary(self._index.index)

    def _views(self) -> Found:
        """Return (N, W) codes and (N,) ids, N > 0, in FAISS's memory; they are valid until the next change."""
        codes, ids = self._flat.xb, self._index.id_map
        pointer = import_faiss().rev_swig_ptr
        return pointer(codes.data(), codes.size()).reshape(len(self), -1), pointer(ids.data(), ids.size())
