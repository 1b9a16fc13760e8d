"""FAISS indexes: a flat index and its file, an inverted file, and a copy on a GPU."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.retrieval.backends.ranking import Found
from facereel.system.optional import import_faiss

KINDS = ("flat", "ivf")

# With fewer codes a flat search takes less than 0.1 ms, so that no inverted file is needed.
FEWEST = 10_000

# Maximum number of codes that a search on a GPU returns.
MOST_ON_GPU = 2048

# Number of codes per cell to train the centers on.
_TRAIN_A_CELL = 40
# With a million codes of 256 bits, the 32 nearest of 2 sqrt(N) cells contain half of the true neighbors, 256 cells 95%.
_CELLS_LOOKED_INTO = 256


def flat_index(n_bytes: int) -> Any:
    """Create an empty flat index with ids.

    `IndexBinaryIDMap2` also has a map from ids to codes, which takes more memory than the codes and is not needed.

    Args:
        n_bytes: bytes of a code.

    Returns:
        The FAISS index.
    """
    faiss = import_faiss()
    return faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(8 * n_bytes))


def inverted_file(codes: NDArray[np.uint8], n_looked_into: int = _CELLS_LOOKED_INTO) -> Any:
    """Create an `IndexBinaryIVF`; docs/results/index_kinds.md has its recall and speed.

    Args:
        codes: (N, W) uint8, packed by `pack_codes`.
        n_looked_into: number of cells, of 2 sqrt(N), that a search reads.

    Returns:
        The FAISS index.
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
    """Copy a flat index to the first GPU.

    Args:
        flat: the index.

    Returns:
        The copy and its resources, which must live as long; None without faiss-gpu or a GPU.
    """
    faiss = import_faiss()
    if faiss.get_num_gpus() == 0:
        return None
    resources = faiss.StandardGpuResources()
    return faiss.index_binary_cpu_to_gpu(resources, 0, flat), resources


def nearest_with_ties(flat: Any, searched: tuple[Any, Any], packed: NDArray[np.uint8], n: int) -> Iterator[Found]:
    """Find the n nearest codes and all that tie with the last one.

    Args:
        flat: the flat index.
        searched: distances and positions from a search for more than n codes in the index, or in its copy on a GPU.
            FAISS breaks ties at the last place arbitrarily.
        packed: (Q, W) uint8, the queries.
        n: number of codes.

    Yields:
        For each query, distances and positions.
    """
    for q, (distances, places) in enumerate(zip(*searched, strict=True)):
        radius = int(distances[min(n, flat.ntotal) - 1])
        if distances[-1] > radius or len(distances) == flat.ntotal:
            tied = distances <= radius
            yield distances[tied], places[tied]
        else:  # More codes tie than were requested. FAISS finds distances strictly below its radius.
            _, distances, places = flat.range_search(packed[q : q + 1], radius + 1)
            yield distances, places


def read_flat(path: Path, n_bytes: int, n_codes: int, mapped: bool) -> Any:
    """Read the file of a `flat_index`, which may be untrusted.

    FAISS trusts the header of a file: a wrong length makes it use all memory, or end the process. So the layout,
    without codes and ids, is compared byte by byte first.

    Args:
        path: the file.
        n_bytes: bytes of a code.
        n_codes: expected number of codes.
        mapped: memory-map the codes.

    Returns:
        The FAISS index.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not a flat index of this size.
    """
    # Dimension, bytes per code, number of codes, whether it is trained, metric.
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
    # An index without codes cannot be memory-mapped.
    return faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC if mapped and n_codes else 0)
