"""Search backends with one protocol: FAISS (`facereel.retrieval.CodeIndex`) and Milvus."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class CodeBackend(Protocol):
    """Binary codes with integer ids, searched by Hamming distance; `CodeIndex` documents the methods."""

    n_bits: int
    max_k: int | None
    """Largest number of codes that one search returns; None if there is no limit."""

    def __len__(self) -> int: ...

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids of the stored codes."""

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) uint8 packed codes, in the order of `ids`."""

    def search(
        self,
        codes: Tensor,
        k: int,
        *,
        scores: Tensor | None = None,
        subset_ids: Tensor | None = None,
        rerank_k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the k nearest codes of each query."""

    def range_search(self, codes: Tensor, radius: int) -> list[tuple[Tensor, Tensor]]:
        """Find all codes within a radius of each query."""
