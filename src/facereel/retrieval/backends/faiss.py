"""FAISS indexes: the flat one and its file, an inverted file, and a copy on a GPU."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.retrieval.backends.ranking import Found
from facereel.system.optional import import_faiss

KINDS = ("flat", "ivf")

# With fewer codes a flat search takes under 0.1 ms, so no inverted file is made.
FEWEST = 10_000

# A GPU returns at most this many codes.
MOST_ON_GPU = 2048

# Codes that each cell's center is trained on.
_TRAIN_A_CELL = 40
# Of a million codes of 256 bits the 32 nearest of 2 sqrt(N) cells hold half of the true neighbors, 256 hold 95 %.
_CELLS_LOOKED_INTO = 256


def flat_index(n_bytes: int) -> Any:
    """Make an empty flat index with ids.

    `IndexBinaryIDMap2` has a map from ids to codes too, which takes more memory than the codes and serves no search.
    """
    faiss = import_faiss()
    return faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(8 * n_bytes))


def inverted_file(codes: NDArray[np.uint8], n_looked_into: int = _CELLS_LOOKED_INTO) -> Any:
    """Make an `IndexBinaryIVF`; docs/scaling.md has its recall and speed.

    Args:
        codes: (N, W) uint8, as `pack_codes` makes them.
        n_looked_into: how many of the 2 sqrt(N) cells a search reads.
    """
    faiss = import_faiss()
    width = 8 * codes.shape[1]
    n_cells = 2 * int(len(codes) ** 0.5)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(width), width, n_cells)
    index.nprobe = n_looked_into
    index.train(codes[np.linspace(0, len(codes) - 1, _TRAIN_A_CELL * n_cells).astype(np.int64)])
    index.add(codes)
    return index


def gpu_index(flat: Any) -> Any:
    """Copy a flat index to the first GPU; return it with what must live as long, or None without faiss-gpu or a GPU."""
    faiss = import_faiss()
    if faiss.get_num_gpus() == 0:
        return None
    resources = faiss.StandardGpuResources()
    return faiss.index_binary_cpu_to_gpu(resources, 0, flat), resources


def nearest_with_ties(flat: Any, searched: tuple[Any, Any], packed: NDArray[np.uint8], n: int) -> Iterator[Found]:
    """For each query the distances and positions of its n nearest codes and all that tie with the last.

    Args:
        flat: the flat index.
        searched: distances and positions that its search, or that of its copy on a GPU, returned for more than n: FAISS
            breaks a tie at the last place in any order.
        packed: (Q, W) uint8, the queries.
        n: how many.
    """
    for q, (distances, places) in enumerate(zip(*searched, strict=True)):
        radius = int(distances[min(n, flat.ntotal) - 1])
        if distances[-1] > radius or len(distances) == flat.ntotal:
            tied = distances <= radius
            yield distances[tied], places[tied]
        else:  # More tie than were asked for. FAISS finds distances strictly below its radius.
            _, distances, places = flat.range_search(packed[q : q + 1], radius + 1)
            yield distances, places


def read_flat(path: Path, n_bytes: int, n_codes: int, mapped: bool) -> Any:
    """Read the file of a `flat_index`, which may be untrusted.

    FAISS trusts the header of a file: a changed length makes it take all memory, or end the process. So the layout is
    compared byte by byte first, except for codes and ids.

    Args:
        path: of the file.
        n_bytes: of a code.
        n_codes: that it must have.
        mapped: leave the codes in the file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not the file of such an index.
    """
    # Dimension, bytes a code, codes, whether it is trained, metric.
    header = struct.pack("<iiq?i", 8 * n_bytes, n_bytes, n_codes, True, 1)
    before_codes = header + b"IBxF" + header + struct.pack("<Q", n_codes * n_bytes)
    before_ids = struct.pack("<Q", n_codes)
    with path.open("rb") as file:
        is_whole = file.read(4) in (b"IBMp", b"IBM2")  # IBM2 has the map from ids to codes, see `flat_index`
        is_whole &= file.read(len(before_codes)) == before_codes
        if is_whole:
            file.seek(n_codes * n_bytes, 1)
            is_whole = file.read(len(before_ids)) == before_ids and path.stat().st_size == file.tell() + 8 * n_codes
    if not is_whole:
        raise ValueError(f"{path} is not a flat index of {n_codes} codes of {n_bytes} bytes")
    faiss = import_faiss()
    # An empty file cannot be mapped, nor can one without codes.
    return faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC if mapped and n_codes else 0)
