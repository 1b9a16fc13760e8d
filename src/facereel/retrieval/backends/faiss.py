"""Searches with FAISS: in arrays of packed codes, in an inverted file, and on a GPU."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.retrieval.backends.code_part import CodePart
from facereel.retrieval.backends.ranking import MORE, Found
from facereel.system.optional import import_faiss

KINDS = ("flat", "ivf")

# With fewer codes a flat search takes less than 0.1 ms, so that no inverted file is needed.
FEWEST = 10_000

# A thread searches at least this number of codes: at a million, two threads are slower than one.
_FEWEST_A_THREAD = 2**21

# Maximum number of codes that a search on a GPU returns.
MOST_ON_GPU = 2048

# Number of codes per cell to train the centers on.
_TRAIN_A_CELL = 40
# With a million codes of 256 bits, the 32 nearest of 2 sqrt(N) cells contain half of the true neighbors, 256 cells 95%.
_CELLS_LOOKED_INTO = 256


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


def has_gpu() -> bool:
    """Return whether faiss-gpu is installed and a GPU is available."""
    return bool(import_faiss().get_num_gpus())


def gpu_index(codes: NDArray[np.uint8]) -> Any:
    """Copy codes to the first GPU.

    Args:
        codes: (N, W) uint8, packed by `pack_codes`.

    Returns:
        A flat index and its resources, which must live as long.
    """
    faiss = import_faiss()
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(codes)
    resources = faiss.StandardGpuResources()
    return faiss.index_binary_cpu_to_gpu(resources, 0, flat), resources


class Candidates(NamedTuple):
    """Codes that may be among the nearest to one query."""

    distances: NDArray[np.int64]
    """(M,) Hamming distances."""
    ids: NDArray[np.int64]
    """(M,)."""
    codes: NDArray[np.uint8]
    """(M, W) packed."""

    @classmethod
    def none(cls, n_bytes: int) -> "Candidates":
        """Return no codes, of W bytes."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, n_bytes), np.uint8))

    @classmethod
    def at(cls, part: CodePart, distances: NDArray[Any], places: NDArray[np.int64]) -> "Candidates":
        """Return the codes at some positions of a part, except for removed ones."""
        if len(part.removed):
            is_kept = ~np.isin(places, part.removed)
            distances, places = distances[is_kept], places[is_kept]
        return cls(distances.astype(np.int64), part.ids[places], part.codes[places])

    @classmethod
    def within(cls, part: CodePart, packed: NDArray[np.uint8], radius: int) -> "Candidates":
        """Return the codes of a part within a Hamming radius of a (W,) query, inclusive."""
        return cls.at(part, *_within_radius(part.codes, packed, radius))

    @classmethod
    def join(cls, found: Sequence["Candidates"]) -> "Candidates":
        """Return the codes of several parts together."""
        return cls(*(np.concatenate(column) for column in zip(*found, strict=True)))


def block_size(n_codes: int) -> int:
    """Return the number of codes for a thread to search at a time."""
    return max(_FEWEST_A_THREAD, -(-n_codes // import_faiss().omp_get_max_threads()))


def nearest(blocks: Iterable[CodePart], packed: NDArray[np.uint8], n: int, on_gpu: Any = None) -> Iterator[Candidates]:
    """Find the n nearest codes and all that tie with the last one, in blocks that are searched in parallel.

    FAISS searches many queries in parallel, but uses one thread for one query.

    Args:
        blocks: the codes. A block is not copied, and may be memory-mapped.
        packed: (Q, W) uint8, the queries.
        n: number of codes.
        on_gpu: result of `gpu_index` of the only block, to search in instead.

    Yields:
        For each query its candidates: at least n, or all if there are fewer.
    """
    faiss = import_faiss()
    n_threads = faiss.omp_get_max_threads()

    def search_alone(block: CodePart) -> list[Candidates]:
        faiss.omp_set_num_threads(1)  # of this thread
        return _nearest_in(block, packed, n)

    found: list[list[Candidates]] = []
    some = list(islice(iterator := iter(blocks), 2))
    if len(some) < 2 or n_threads == 1:
        found = [_nearest_in(block, packed, n, on_gpu) for block in chain(some, iterator)]
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            # At most twice as many blocks as threads are in memory.
            while some:
                found += pool.map(search_alone, some)
                found = [[_nearest_of(column, n) for column in zip(*found, strict=True)]]
                some = list(islice(iterator, 2 * n_threads))
    for q in range(len(packed)):
        yield _nearest_of([Candidates.none(packed.shape[1]), *(of[q] for of in found)], n)


def _nearest_of(found: Sequence[Candidates], n: int) -> Candidates:
    """Return the n nearest candidates, and all that tie with the last one."""
    joined = Candidates.join(found)
    if len(joined.ids) <= n:
        return joined
    is_near = joined.distances <= np.partition(joined.distances, n - 1)[n - 1]
    return Candidates(*(column[is_near] for column in joined))


def _nearest_in(part: CodePart, packed: NDArray[np.uint8], n: int, on_gpu: Any = None) -> list[Candidates]:
    """Find the n nearest codes of a part, and all that tie with the last one."""
    enough, n = min(n, part.n_codes), min(n, len(part.ids))
    while True:
        found = [
            Candidates.at(part, distances, places)
            for distances, places in _nearest_with_ties(part.codes, packed, n, on_gpu)
        ]
        if all(len(one.ids) >= enough for one in found):
            return found
        n = min(4 * n, len(part.ids))  # too many removed codes are near


def _nearest_with_ties(
    codes: NDArray[np.uint8], packed: NDArray[np.uint8], n: int, on_gpu: Any = None
) -> Iterator[Found]:
    """Find the n nearest codes and all that tie with the last one.

    Args:
        codes: (N, W) uint8, which may be memory-mapped; they are not copied.
        packed: (Q, W) uint8, the queries.
        n: number of codes.
        on_gpu: result of `gpu_index` to search in instead, or None.

    Yields:
        For each query, distances and positions.
    """
    wanted = min(2 * n + MORE, len(codes))
    if on_gpu is None or wanted > MOST_ON_GPU:
        searched = import_faiss().knn_hamming(packed, codes, wanted)
    else:
        searched = on_gpu[0].search(packed, wanted)
    for q, (distances, places) in enumerate(zip(*searched, strict=True)):
        radius = int(distances[min(n, len(codes)) - 1])
        if distances[-1] > radius or wanted == len(codes):
            tied = distances <= radius
            yield distances[tied], places[tied].astype(np.int64)
        else:  # More codes tie than were requested, and FAISS breaks ties at the last place arbitrarily.
            yield _within_radius(codes, packed[q], radius)


def _within_radius(codes: NDArray[np.uint8], packed: NDArray[np.uint8], radius: int) -> Found:
    """Find all codes within a Hamming radius of a query.

    Args:
        codes: (N, W) uint8, which may be memory-mapped; they are not copied.
        packed: (W,) uint8, the query.
        radius: maximum distance in bits, inclusive.

    Returns:
        Distances and positions.
    """
    faiss = import_faiss()
    result = faiss.RangeSearchResult(1)
    query, its_codes = faiss.swig_ptr(np.ascontiguousarray(packed)), faiss.swig_ptr(codes)
    # FAISS finds distances strictly below its radius.
    faiss.hamming_range_search(query, its_codes, 1, len(codes), radius + 1, codes.shape[1], result)
    n_found = int(faiss.rev_swig_ptr(result.lims, 2)[1])
    distances = faiss.rev_swig_ptr(result.distances, n_found).astype(np.int64)
    return distances, faiss.rev_swig_ptr(result.labels, n_found).astype(np.int64)
