"""FAISS indexes that look at a part of the codes only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.optional import import_faiss

KINDS = ("flat", "ivf", "hash", "hnsw")

# Of fewer codes all are looked at whatever was asked for: that takes under 0.1 ms.
FEWEST = 10_000

# Codes a cell's centre is found from.
_TRAIN_A_CELL = 40
# Cells looked into, of 2 sqrt(N): of a million codes of 256 bits 32 find half of what is to be found, in a sixth of the
# time.
_CELLS_LOOKED_INTO = 256
# Of a query's substrings so many bits are flipped, each choice of them a bucket that is looked into.
_FLIPS = 2
# Links of a code, and codes kept while they are followed: while the graph is made, and in a search.
_LINKS, _KEPT_IN_MAKING, _KEPT = 32, 80, 256


def approximate_index(kind: str, codes: NDArray[np.uint8], n_bits: int) -> Any:
    """A FAISS index of a kind other than flat; recall and speed of each stand in docs/large_archives.md.

    Args:
        kind: "ivf", cells around centres, of which the nearest are looked into; "hash", tables of what the codes'
            substrings are (Norouzi, Punjani and Fleet, CVPR 2012), but with at most two flips in a substring, so not
            exact; "hnsw", a graph of neighbours (Malkov and Yashunin, 2016).
        codes: (N, W) uint8, as `pack_codes` makes them.
        n_bits: K.

    Raises:
        ValueError: for another kind.
    """
    faiss = import_faiss()
    width = 8 * codes.shape[1]
    if kind == "ivf":
        index = inverted_file(codes, _CELLS_LOOKED_INTO)
    elif kind == "hash":
        # About as many values of a substring as there are codes, so that a bucket holds few.
        length = min(max(8, len(codes).bit_length() - 1), n_bits)
        index = faiss.IndexBinaryMultiHash(width, n_bits // length, length)
        index.nflip = _FLIPS
        index.add(codes)
    elif kind == "hnsw":
        index = faiss.IndexBinaryHNSW(width, _LINKS)
        index.hnsw.efConstruction, index.hnsw.efSearch = _KEPT_IN_MAKING, _KEPT
        index.add(codes)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
    return index


def inverted_file(codes: NDArray[np.uint8], n_looked_into: int) -> Any:
    """(N, W) uint8 codes in 2 sqrt(N) cells, of which a search looks into so many."""
    faiss = import_faiss()
    width = 8 * codes.shape[1]
    n_cells = 2 * int(len(codes) ** 0.5)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(width), width, n_cells)
    index.nprobe = n_looked_into
    index.train(codes[np.linspace(0, len(codes) - 1, _TRAIN_A_CELL * n_cells).astype(np.int64)])
    index.add(codes)
    return index


def gpu_index(flat: Any) -> Any:
    """A copy of a flat index on the first GPU, with what must live as long; None without faiss-gpu or a GPU."""
    faiss = import_faiss()
    if faiss.get_num_gpus() == 0:
        return None
    resources = faiss.StandardGpuResources()
    return faiss.index_binary_cpu_to_gpu(resources, 0, flat), resources
