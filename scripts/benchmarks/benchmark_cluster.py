"""Benchmark grouping tracks by their codes: accuracy on real faces, and speed on many drawn codes.

    python scripts/benchmarks/benchmark_cluster.py [--features FILE] [--sizes 10000 100000 1000000] [--out DIR]

Prints and writes DIR/cluster.md. Needs the extra cpu (or gpu). FILE is a dict written by torch.save: F, (N, 128) float,
dlib's features of frames, and clips, a list of (person's number, source, rows of F); needs the extra pretrained, and
scipy, which groups the features themselves. Without FILE only drawn codes are measured.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from measure import Report, benchmark_parser, heading
from numpy.typing import NDArray
from torch.nn.functional import normalize

from facereel.evaluation.clustering import b_cubed, pairwise
from facereel.functional import pack_codes
from facereel.models import pretrained_hasher
from facereel.retrieval.clustering.linkage import cluster_tracks, default_threshold, n_candidates, nearest

N_BITS = 256
# Parameters of drawn codes, chosen so that distances are about as on YouTube Faces.
N_DIMS, NOISE, OFFSET = 44, (0.1, 1.1), 0.8
TRACKS_A_PERSON = 10
# Thresholds: fraction of bits between groups of codes, and distance of features.
THRESHOLDS = tuple(round(0.16 + 0.01 * i, 2) for i in range(15))
COSINES = tuple(round(0.03 + 0.005 * i, 3) for i in range(13))
N_QUERIES = 2000
TABLE = "| {} | pairs: precision | recall | F | B-cubed: precision | recall | F | groups |"
RULE = "|---|---:|---:|---:|---:|---:|---:|---:|"


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

    def cells(self) -> str:
        """Return the cells of a table row."""
        return " | ".join(f"{value:.3f}" for value in self[:-1]) + f" | {self.n_groups:,}"


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


def run(n_tracks: int) -> Run:
    """Return the result of grouping drawn codes in this process."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    codes, person = drawn(n_tracks)
    threshold = default_threshold(n_tracks)
    started = time.perf_counter()
    groups = cluster_tracks(codes, N_BITS, threshold)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    distinct = np.unique(codes, axis=0)
    k = n_candidates(len(distinct))
    started = time.perf_counter()
    near = nearest(distinct, N_BITS, k, threshold)
    search_s = time.perf_counter() - started
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
    return Run(threshold, search_s, seconds, peak, float(np.mean(hits)), compare(person, groups))


def real(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]:
    """Return codes (N, K) of clips by the default model, their unit features (N, 128), and people (N,)."""
    found = torch.load(path)
    features = torch.stack([found["F"][list(rows)].mean(dim=0) for _, _, rows in found["clips"]])
    with torch.inference_mode():
        codes = pretrained_hasher().head.forward_clips(features) > 0.5
    people = np.unique([person for person, *_ in found["clips"]], return_inverse=True)[1]
    return codes.numpy(), normalize(features, dim=1).numpy(), people


def by_codes(codes: NDArray[np.bool_], people: NDArray[np.int64], threshold: float) -> Scores:
    """Return the scores of groups of (N, K) codes."""
    packed = pack_codes(torch.from_numpy(codes)).numpy()
    return compare(people, cluster_tracks(packed, codes.shape[1], threshold))


def by_features(features: NDArray[np.float32], people: NDArray[np.int64], threshold: float) -> Scores:
    """Return the scores of groups of (N, D) features by scipy's average linkage of 1 - cosine."""
    from scipy.cluster.hierarchy import fcluster, linkage

    return compare(people, fcluster(linkage(features, "average", metric="cosine"), threshold, "distance"))


def best(scores: Sequence[Scores]) -> int:
    """Return the index of the scores with the highest mean of both F."""
    return int(np.argmax([one.f + one.b_f for one in scores]))


def measure_real(path: Path, say: Callable[[str], None]) -> None:
    """Print tables for each half of the people, and for all."""
    codes, features, people = real(path)
    n_people = int(people.max()) + 1
    first = np.isin(people, np.random.default_rng(0).permutation(n_people)[: n_people // 2])
    parts = {"half used to choose": first, "other half": ~first, "all": np.full(len(people), True)}
    chosen: dict[str, float] = {}
    for name, part in parts.items():
        own = np.unique(people[part], return_inverse=True)[1]
        distances = (codes[part][:, None] != codes[part][None]).mean(axis=2)
        same = own[:, None] == own
        upper = np.triu(np.full(same.shape, True), 1)
        between, within = distances[upper & ~same], distances[upper & same]
        default = default_threshold(len(own))
        say("")
        say(
            f"People: {name}: {own.max() + 1}, {len(own)} clips. Distance as a fraction of bits, mean and standard "
            f"deviation: same person {within.mean():.3f} and {within.std():.3f}, two people {between.mean():.3f} and "
            f"{between.std():.3f}."
        )
        say("")
        say(TABLE.format("threshold"))
        say(RULE)
        say(f"| **the default, {default:.3f}** | {by_codes(codes[part], own, default).cells()} |")
        scores = [by_codes(codes[part], own, threshold) for threshold in THRESHOLDS]
        for threshold, one in zip(THRESHOLDS, scores, strict=True):
            say(f"| {threshold:.2f}{' (best)' if one is scores[best(scores)] else ''} | {one.cells()} |")
        ceiling = [by_features(features[part], own, threshold) for threshold in COSINES]
        chosen.setdefault("cosine", COSINES[best(ceiling)])
        at = ceiling[COSINES.index(chosen["cosine"])]
        say(f"| features, {chosen['cosine']:g}, chosen on the first half | {at.cells()} |")
        say(f"| features, {COSINES[best(ceiling)]:g} (best) | {ceiling[best(ceiling)].cells()} |")


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--features", type=Path)
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
    if arguments.features:
        say()
        say("## Real faces")
        say()
        say(
            f"Clips of YouTube Faces in codes of {N_BITS} bits by the default model (dlib's weights, CC0; seed 0); no "
            "two clips overlap in time. The people are split in two random halves, seed 0."
        )
        measure_real(arguments.features, say)
    say()
    say("## Drawn codes")
    say()
    say(
        f"{N_BITS} bits, {TRACKS_A_PERSON} tracks per person, seed 0. Distance as a fraction of bits, mean and "
        "standard deviation: same person 0.19 and 0.07, two people 0.39 and 0.05, with a lighter lower tail than on "
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
