"""`CodeIndex`: binary codes with integer ids, searched by FAISS."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.retrieval.backends.code_part import CodePart, join, read_part, write_part
from facereel.retrieval.backends.faiss import (
    FEWEST,
    KINDS,
    Candidates,
    block_size,
    gpu_index,
    has_gpu,
    inverted_file,
    nearest,
)
from facereel.retrieval.backends.ranking import (
    MORE,
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

INDEX_FILE = "codes.bin"
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
        import_faiss()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
        self.n_bits = n_bits
        self.kind = kind
        self._parts: list[CodePart] = []
        self._near: Any = None  # the inverted file of the only part, with positions as ids
        self._on_gpu: Any = None

    @classmethod
    def of_parts(cls, n_bits: int, parts: Sequence[CodePart]) -> Self:
        """Create an index of kind "flat" of codes in parts, which are not copied.

        Args:
            n_bits: K, the length of a code in bits.
            parts: the codes; an id is in one part only.

        Returns:
            The index.
        """
        index = cls(n_bits)
        index._parts = [part for part in parts if part.n_codes]
        return index

    def __len__(self) -> int:
        return sum(part.n_codes for part in self._parts)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids of the stored codes."""
        return np.concatenate([np.zeros(0, np.int64), *(part.kept()[0] for part in self._parts)])

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) uint8 packed codes (see `pack_codes`), in the order of `ids`."""
        none = np.zeros((0, -(-self.n_bits // 8)), np.uint8)
        return np.concatenate([none, *(part.kept()[1] for part in self._parts)])

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
        added = CodePart.of(ids, codes)
        for part in self._parts:
            for place in part.places(added.ids)[:1]:
                raise ValueError(f"id {part.ids[place]} is already stored")
        self._near = self._on_gpu = None
        if len(ids):
            self._parts.append(added)
        # Few parts, and each code is copied only a few times.
        while len(self._parts) > 1 and self._parts[-2].n_codes < 2 * self._parts[-1].n_codes:
            self._parts[-2:] = [join(self._parts[-2:])]

    def remove(self, ids: Tensor) -> int:
        """Remove codes by id; ids that are not stored are ignored.

        Args:
            ids: (N,) int64.

        Returns:
            The number of removed codes.
        """
        n_before, removed = len(self), np.unique(ids.cpu().numpy().astype(np.int64))
        self._near = self._on_gpu = None
        self._parts = [part for old in self._parts if (part := old.without(removed)).n_codes]
        return n_before - len(self)

    def build(self) -> bool:
        """Create the inverted file of kind "ivf", as `save` does, if there are at least 10,000 codes.

        Returns:
            Whether an inverted file was created.
        """
        if self.kind == "flat" or self._near is not None or len(self) < FEWEST:
            return False
        self._near = inverted_file(self._whole().codes)
        return True

    def _whole(self) -> CodePart:
        """Return all codes as one part, which replaces the others."""
        if len(self._parts) != 1 or len(self._parts[0].removed):
            self._parts = [join(self._parts)]
        return self._parts[0]

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
        subset = None if subset_ids is None else np.unique(subset_ids.cpu().numpy().astype(np.int64))
        if scores is not None and rerank_k is None:
            found = list(scan_by_scores(scores, self._blocks(subset), k))
        else:
            found = [
                first_by_distance(near.distances, near.ids, k)
                if scores is None
                else first_by_scores(scores[q], near.codes, near.ids, k)
                for q, near in enumerate(self._candidates(packed, max(k, rerank_k or 1), subset))
            ]
        return to_tensors(found, len(codes), min(k, len(self)), torch.int64 if scores is None else torch.float32)

    def _blocks(self, subset: NDArray[np.int64] | None, size: int = 2**20) -> Iterator[CodePart]:
        """Yield the codes to search in parts."""
        for part in self._parts:
            yield from part.blocks(size) if subset is None else part.subset(subset)

    def _candidates(self, packed: NDArray[np.uint8], n: int, subset: NDArray[np.int64] | None) -> Iterator[Candidates]:
        """Yield for each query the n nearest codes and all that tie with the last, or near ones with kind "ivf"."""
        n = min(n, len(self))
        if n == 0:
            yield from (Candidates.none(packed.shape[1]) for _ in packed)
        elif subset is not None:
            yield from nearest(self._blocks(subset), packed, n)
        elif self._near is None:
            yield from self._nearest(packed, n)
        else:
            found, places = self._near.search(packed, min(2 * n + MORE, len(self)))
            for q, (distances, near) in enumerate(zip(found, places, strict=True)):
                is_found = near >= 0  # -1 where the cells have fewer codes
                if is_found.sum() < n:
                    yield from self._nearest(packed[q : q + 1], n)
                else:
                    yield Candidates.at(self._parts[0], distances[is_found], near[is_found])

    def _nearest(self, packed: NDArray[np.uint8], n: int) -> Iterator[Candidates]:
        """See `_candidates`; without the inverted file."""
        if not has_gpu():
            return nearest(self._blocks(None, block_size(len(self))), packed, n)
        whole = self._whole()
        if self._on_gpu is None:
            self._on_gpu = gpu_index(whole.codes)
        return nearest([whole], packed, n, on_gpu=self._on_gpu)

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
            near = [Candidates.within(part, packed, radius) for part in self._blocks(None)]
            distances, ids = first_by_distance(*Candidates.join([Candidates.none(len(packed)), *near])[:2])
            found.append((torch.from_numpy(distances), torch.from_numpy(ids)))
        return found

    def save(self, folder: str | Path) -> None:
        """Write codes.bin, near.faiss if there is an inverted file, and index.json, each atomically.

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
            write_part(path, len(self), -(-self.n_bits // 8), [join(self._parts)] if self._parts else [])
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
            mapped: memory-map the codes: the system reads only what is searched, and processes share the memory. The
                file may be replaced, but not written to.

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
            part = read_part(folder / INDEX_FILE, meta["n_codes"], -(-index.n_bits // 8), mapped)
            index._parts = [part] if part.n_codes else []
            # No check ensures that FAISS can read this file safely, so only files written by this user are read.
            if near.is_file() and verify(sha256_of(near), meta.get("near")):
                index._near = import_faiss().read_index_binary(str(near))
                if (index._near.d, index._near.ntotal) != (8 * part.codes.shape[1], len(index)):
                    raise ValueError("the inverted file has other codes")
        except FileNotFoundError as error:
            raise UserError(f"{folder} has no index: {META_FILE} or {INDEX_FILE} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"the index in {folder} is damaged: {META_FILE} or {INDEX_FILE}") from error
        return index
