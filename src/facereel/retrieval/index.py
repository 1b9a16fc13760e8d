"""`CodeIndex`: binary codes under integer ids, searched by FAISS."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.files import write_beside
from facereel.functional import pack_codes, unpack_codes

INDEX_FILE = "codes.faiss"
META_FILE = "index.json"


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError("FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')") from error
    return faiss


class CodeIndex:
    """An exact (flat) Hamming index. Codes are padded to whole bytes, which leaves distances as they are.

    Args:
        n_bits: K, the length of a code.

    Raises:
        UserError: if FAISS is not installed.

    Example:
        >>> index = CodeIndex(4)
        >>> index.add(torch.tensor([[True, True, False, False], [True, False, False, False]]), torch.tensor([7, 8]))
        >>> index.search(torch.tensor([[True, True, True, False]]), k=2)
        (tensor([[1, 2]]), tensor([[7, 8]]))
    """

    def __init__(self, n_bits: int) -> None:
        faiss = _faiss()
        self.n_bits = n_bits
        self._index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(8 * -(-n_bits // 8)))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) the ids held, in the order they were added."""
        return _faiss().vector_to_array(self._index.id_map)

    def add(self, codes: Tensor, ids: Tensor) -> None:
        """Add codes.

        Args:
            codes: (N, K) bool.
            ids: (N,) int64, >= 0, not yet held.

        Raises:
            ValueError: for wrong shapes, or an id that is negative, given twice or held already.
        """
        new = ids.cpu().numpy().astype(np.int64)
        if new.shape != (len(codes),) or (new < 0).any():
            raise ValueError(f"ids must be ({len(codes)},) and not negative")
        if len(np.unique(new)) < len(new) or np.isin(new, self.ids).any():
            raise ValueError("an id is given twice or held already")
        self._index.add_with_ids(self._packed(codes), new)

    def remove(self, ids: Tensor) -> int:
        """Remove ids, those held among them.

        Returns:
            How many were removed.
        """
        return int(self._index.remove_ids(ids.cpu().numpy().astype(np.int64)))

    def search(
        self, codes: Tensor, k: int, *, scores: Tensor | None = None, where: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest codes of each query, equal distances by id.

        Args:
            codes: (Q, K) bool, the queries.
            k: how many to find; fewer are returned if fewer are held.
            scores: (Q, K) float in 0..1, the real-valued outputs of the queries. If given, all codes are ranked by
                the asymmetric distance, the squared Euclidean one between a query's scores and a code.
            where: (M,) int64, search among these ids only.

        Returns:
            Distances (Q, k'), int64 Hamming ones or float32 asymmetric ones, and ids (Q, k') int64.

        Raises:
            ValueError: for wrong shapes or k < 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if scores is None and where is None:
            k = min(k, len(self))
            if k == 0:
                empty = torch.zeros(len(codes), 0, dtype=torch.int64)
                return empty, empty.clone()
            # FAISS breaks a tie at the last place as it likes: take the whole tie, then the smallest ids of it.
            distances, _ = self._index.search(self._packed(codes), k)
            found = [self._within(codes[q : q + 1], int(distances[q, -1])) for q in range(len(codes))]
            return torch.stack([d[:k] for d, _ in found]), torch.stack([i[:k] for _, i in found])
        held = torch.from_numpy(self.ids.copy())
        chosen = torch.ones(len(held), dtype=torch.bool) if where is None else torch.isin(held, where.cpu())
        held = held[chosen]
        stored = self._stored()[chosen]
        if scores is None:
            distance = (codes.cpu()[:, None, :] != stored[None, :, :]).sum(dim=2)
        else:
            distance = torch.cdist(scores.float().cpu(), stored.float()).square()
        by_id = held.argsort()
        ordered, order = distance[:, by_id].sort(dim=1, stable=True)
        k = min(k, len(held))
        return ordered[:, :k], held[by_id][order[:, :k]]

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
            path.write_bytes(_faiss().serialize_index_binary(self._index).tobytes())
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
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            index = cls(meta["n_bits"])
            content = np.fromfile(folder / INDEX_FILE, dtype=np.uint8)
            found = _faiss().deserialize_index_binary(content)
            if (found.d, found.ntotal) != (index._index.d, meta["n_codes"]):
                raise ValueError("codes and description differ")
            index._index = found
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no index: {META_FILE} or {INDEX_FILE} is absent") from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"the index in {folder} is damaged: {META_FILE} or {INDEX_FILE}") from error
        return index

    def _packed(self, codes: Tensor) -> NDArray[np.uint8]:
        if codes.ndim != 2 or codes.shape[1] != self.n_bits:
            raise ValueError(f"codes must be bool (N, {self.n_bits}), not {codes.dtype} {tuple(codes.shape)}")
        return pack_codes(codes.cpu()).numpy()

    def _stored(self) -> Tensor:
        flat = _faiss().downcast_IndexBinary(self._index.index)
        packed = _faiss().vector_to_array(flat.xb).reshape(len(self), -1)
        return unpack_codes(torch.from_numpy(packed.copy()), self.n_bits)
