"""Benchmark grouping many tracks by drawn codes; evaluate_face_search.py measures groups of real faces.

    python scripts/benchmarks/benchmark_cluster.py [--sizes 10000 100000 1000000] [--out DIR]

Prints and writes DIR/cluster.md. Needs the extra cpu (or gpu).
"""

import multiprocessing
import resource
import time
from statistics import NormalDist
from typing import NamedTuple
from unittest.mock import patch

import faiss
import numpy as np
import torch
from measure import Report, benchmark_parser, heading
from numpy.typing import NDArray

from facereel.evaluation.clustering import b_cubed, pairwise
from facereel.retrieval.clustering import linkage

N_BITS = 256
# Parameters of drawn codes, chosen so that distances are about as on YouTube Faces.
N_DIMS, NOISE, OFFSET = 44, (0.1, 1.1), 0.8
TRACKS_A_PERSON = 10
# Distances of drawn people. The threshold is where half a track of another person is expected.
DIFFERENT, OTHERS_WITHIN = NormalDist(0.399, 0.056), 0.5
N_QUERIES = 2000


class Scores(NamedTuple):
    """Agreement of groups with people, in 0..1."""

    precision: float
    recall: float
    f: float
    """Over pairs of tracks."""
    b_precision: float
    b_recall: float
    b_f: float
    """B-cubed (Bagga and Baldwin 1998): means over tracks."""
    n_groups: int


def compare(people: NDArray[np.int64], groups: NDArray[np.int64]) -> Scores:
    """Return the agreement of (N,) groups with (N,) people."""
    return Scores(*pairwise(people, groups), *b_cubed(people, groups), len(np.unique(groups)))


def drawn(n_tracks: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return packed codes (N, W) and people (N,): random projections of one normal vector per person, plus noise."""
    random = np.random.default_rng(0)
    person = random.permutation(np.arange(n_tracks) // TRACKS_A_PERSON)
    people = random.standard_normal((n_tracks // TRACKS_A_PERSON + 1, N_DIMS), dtype=np.float32) + np.float32(OFFSET)
    projection = random.standard_normal((N_DIMS, N_BITS), dtype=np.float32)
    codes = []
    for first in range(0, n_tracks, 50_000):
        own = people[person[first : first + 50_000]]
        noise = random.uniform(*NOISE, (len(own), 1)).astype(np.float32)
        noisy = own + noise * random.standard_normal(own.shape, dtype=np.float32)
        codes.append(np.packbits(noisy @ projection > 0, axis=1))
    return np.concatenate(codes), person


class Run(NamedTuple):
    """Result of grouping drawn codes."""

    threshold: float
    search_s: float
    seconds: float
    """Total time."""
    peak_mb: float
    """Peak memory of the process, including torch and FAISS."""
    found: float
    """Fraction of the nearest codes within the threshold that are among the candidates."""
    scores: Scores


class Search:
    """`nearest`, which keeps its codes, result and time: for many codes, a second search would take long."""

    def __init__(self) -> None:
        self.nearest = linkage.nearest

    def __call__(self, codes: NDArray[np.uint8], n_bits: int, k: int, threshold: float) -> linkage.Nearest:
        """Search as `nearest` does."""
        started = time.perf_counter()
        self.codes, self.near = codes, self.nearest(codes, n_bits, k, threshold)
        self.seconds = time.perf_counter() - started
        return self.near


def run(n_tracks: int) -> Run:
    """Return the result of grouping drawn codes in this process."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    codes, person = drawn(n_tracks)
    threshold = DIFFERENT.inv_cdf(OTHERS_WITHIN / n_tracks)
    search = Search()
    started = time.perf_counter()
    with patch.object(linkage, "nearest", search):
        groups = linkage.cluster_tracks(codes, N_BITS, threshold)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    distinct, near = search.codes, search.near
    k = linkage.n_candidates(len(distinct))
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(distinct)
    queries = np.linspace(0, len(distinct) - 1, min(N_QUERIES, len(distinct))).astype(np.int64)
    distances, places = flat.search(distinct[queries], min(k, 64) + 1)
    hits = [
        place in candidates
        for query, row, its in zip(queries.tolist(), distances, places.tolist(), strict=True)
        for candidates in [set(near.of(query))]
        for distance, place in zip(row.tolist(), its, strict=True)
        if place != query and distance / N_BITS <= threshold
    ]
    return Run(threshold, search.seconds, seconds, peak, float(np.mean(hits)), compare(person, groups))


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    report = Report()
    say = report.say
    say("# Groups of tracks, measured")
    say()
    say(
        f"Written by `python scripts/benchmarks/benchmark_cluster.py`. {heading()}; faiss {faiss.__version__}; "
        f"numpy {np.__version__}."
    )
    say()
    say("## Drawn codes")
    say()
    say(
        f"{N_BITS} bits, {TRACKS_A_PERSON} tracks per person, seed 0. Distance as a fraction of bits, mean and "
        "standard deviation: same person 0.19 and 0.07, two people 0.39 and 0.05. The lower tail is lighter than on "
        "real faces. Memory is the peak of the process; most of it is taken by torch and FAISS before the first code."
    )
    say()
    say(
        "| tracks | threshold | seconds | of these, search | MB | neighbors found | pairs: precision | recall | "
        "B-cubed: precision | recall | groups |"
    )
    say("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for size in arguments.sizes:
        # In a new process, to measure its memory alone.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            one = pool.apply(run, (size,))
        s = one.scores
        say(
            f"| {size:,} | {one.threshold:.3f} | {one.seconds:,.1f} | {one.search_s:,.1f} | {one.peak_mb:,.0f} | "
            f"{one.found:.3f} | {s.precision:.3f} | {s.recall:.3f} | {s.b_precision:.3f} | {s.b_recall:.3f} | "
            f"{s.n_groups:,} |"
        )
    report.write(arguments.out / "cluster.md")


if __name__ == "__main__":
    main()
