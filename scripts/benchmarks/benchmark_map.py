"""Benchmark mean average precision over whole Hamming rankings: time, agreement and memory, in one run.

python scripts/benchmarks/benchmark_map.py [--out DIR]

Prints and writes DIR/map.md. Needs the extra cpu (or gpu). Exits with 1 if a target is missed.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Literal

import faiss
import numpy as np
import torch
from measure import Report, benchmark_parser, heading, milliseconds, warm_allocator
from torch import Tensor

from facereel.functional import mean_average_precision, pack_codes

# Codes of queries and gallery, labels of queries and gallery.
Problem = tuple[Tensor, Tensor, Tensor, Tensor]

N_BITS = 64
N_PEOPLE = 200
LARGE = (1000, 1_000_000)


def problem(n_queries: int, n_gallery: int) -> Problem:
    """Return codes and labels of 200 people: a random code each, with bits flipped per image with probability 1/4."""
    generator = torch.Generator().manual_seed(0)
    people = torch.rand(N_PEOPLE, N_BITS, generator=generator) > 0.5
    labels = [torch.randint(N_PEOPLE, (n,), generator=generator) for n in (n_queries, n_gallery)]
    flips = [torch.randint(4, (len(x), N_BITS), generator=generator, dtype=torch.uint8) == 0 for x in labels]
    codes = [flip.logical_xor_(people[x]) for flip, x in zip(flips, labels, strict=True)]
    return codes[0], codes[1], labels[0], labels[1]


def usual_loop(codes: Problem, kind: Literal["quicksort", "stable"] = "quicksort") -> float:
    """Return mAP as usually computed: rank the gallery for one query after the other."""
    queries, gallery = (np.where(x.numpy(), 1.0, -1.0) for x in codes[:2])
    labels, total = codes[3].numpy(), 0.0
    for code, label in zip(queries, codes[2].numpy(), strict=True):
        order = np.argsort(0.5 * (N_BITS - gallery @ code), kind=kind)
        ranks = np.flatnonzero((labels == label)[order]) + 1
        total += float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return total / len(queries)


def full_faiss_ranking(codes: Problem) -> float:
    """Return mAP from a FAISS search for all items."""
    index = faiss.IndexBinaryFlat(N_BITS)
    index.add(pack_codes(codes[1]).numpy())
    _, found = index.search(pack_codes(codes[0]).numpy(), len(codes[1]))
    relevant = codes[3].numpy()[found] == codes[2].numpy()[:, None]
    precision = relevant.cumsum(axis=1) / np.arange(1, len(codes[1]) + 1)
    return float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).mean())


def expected_by_definition(codes: Problem) -> float:
    """Return mAP by definition: the probability of a relevant item at each rank, times the precision there."""
    total = 0.0
    for code, label in zip(codes[0], codes[2], strict=True):
        distance, relevant = (codes[1] ^ code).sum(dim=1).numpy(), (codes[3] == label).numpy()
        score, before, found = 0.0, 0, 0
        for d in np.unique(distance):
            n, r = int((distance == d).sum()), int(relevant[distance == d].sum())
            place = np.arange(1, n + 1)
            ahead = (place - 1) * (r - 1) / max(1, n - 1)
            score += float((r / n * (found + 1 + ahead) / (before + place)).sum())
            before, found = before + n, found + r
        total += score / found
    return total / len(codes[0])


def large() -> None:
    """Print seconds and peak memory of 1,000 queries in a gallery of a million; runs in a new process."""
    arguments = problem(*LARGE)
    started = time.perf_counter()
    mean_average_precision(*arguments)
    seconds = time.perf_counter() - started
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.large:
        return large()
    report = Report()
    say, target = report.say, report.target

    # First, while this process is small: Linux counts the parent's memory in the peak of its child.
    run = subprocess.run([sys.executable, __file__, "--large"], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, run.stdout.split())
    warm_allocator()
    say("# Mean average precision, measured")
    say()
    say(
        f"Written by `python scripts/benchmarks/benchmark_map.py`. {heading()}; faiss {faiss.__version__}; "
        f"numpy {np.__version__}."
    )
    say(f"{N_PEOPLE} people, {N_BITS} bits, random codes with a quarter of the bits flipped; medians.")
    say()
    codes = problem(2000, 20_000)
    others = {
        "argsort, query by query": (20, lambda: usual_loop(codes)),
        "FAISS, full ranking": (5, lambda: full_faiss_ranking(codes)),
    }
    say("| 2,000 queries, 20,000 items | ms | facereel in the same run, ms | ratio |")
    say("|---|---:|---:|---:|")
    ratios = {}
    # In pairs: the threads that FAISS keeps would slow the others down.
    for name, (_, call) in others.items():
        found = milliseconds({"facereel": lambda: mean_average_precision(*codes), name: call}, seconds=1.0)
        ratios[name] = found.ratio(name, "facereel")
        say(f"| {name} | {found.median(name):.0f} | {found.median('facereel'):.0f} | {ratios[name]:.1f} |")
    say()
    for name, (factor, _) in others.items():
        target(f"{factor} x as fast as {name}: {ratios[name]:.1f} x", ratios[name] >= factor)
    ordered = mean_average_precision(*codes, ties="database_order")
    off = abs(ordered - usual_loop(codes, kind="stable"))
    target(f"database order equals the loop with a stable sort, to 1e-9: difference {off:.0e}", off <= 1e-9)
    off = abs(mean_average_precision(*codes) - expected_by_definition(codes))
    target(f"expected value equals its definition, item by item, to 1e-9: difference {off:.0e}", off <= 1e-9)
    target(f"1,000 x 1,000,000 in at most 10 s: {seconds:.1f} s", seconds <= 10)
    target(f"in at most 1 GB, libraries and codes included: {megabytes:.0f} MB", megabytes <= 1024)
    report.write(arguments.out / "map.md")
    report.finish()


if __name__ == "__main__":
    main()
