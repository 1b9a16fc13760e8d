"""Search among a million codes: by bits, by real-valued queries, and by these within a Hamming shortlist.

python scripts/benchmark_search.py [--out DIR]

Prints and writes DIR/search.md. Needs the extra cpu (or gpu). Ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import faiss
import numpy as np
import torch
from measure import Report, heading, milliseconds, warm_allocator
from torch import Tensor

from facereel.functional import pack_codes
from facereel.retrieval import CodeIndex

N_CODES = 1_000_000
N_BITS = (64, 256)
N_QUERIES = 64
SHORTLISTS = (100, 1000, 10_000)
K = 10
CODES_A_PERSON = 20
FACTOR = 5


def problem(n_bits: int, n_codes: int, n_queries: int) -> tuple[CodeIndex, Tensor]:
    """An index of people's codes, and scores of other pictures of some of them.

    A person is a normal vector in n_bits / 4 dimensions, a picture it and as much noise, a score the sigmoid of a
    random projection: bits of one picture depend on each other, as a network's do.
    """
    generator = torch.Generator().manual_seed(0)
    n_dims = n_bits // 4
    people = torch.randn(max(1, n_codes // CODES_A_PERSON), n_dims, generator=generator)
    projection = torch.randn(n_dims, n_bits, generator=generator) / n_dims**0.5

    def scores(labels: Tensor) -> Tensor:
        pictures = people[labels] + torch.randn(len(labels), n_dims, generator=generator)
        return torch.sigmoid(2 * pictures @ projection)

    index = CodeIndex(n_bits)
    for start in range(0, n_codes, 100_000):
        ids = torch.arange(start, min(start + 100_000, n_codes))
        index.add(scores(ids % len(people)) > 0.5, ids)
    return index, scores(torch.randint(len(people), (n_queries,), generator=generator))


def unpacked_search(codes: Tensor, scores: Tensor, k: int) -> Tensor:
    """How it is mostly done: one matrix product with codes held as float32; ids (Q, k)."""
    n_set = codes.sum(dim=1)
    distances = n_set - 2 * scores @ codes.T  # but for a term of the query alone
    return distances.topk(k, largest=False).indices


def found_again(found: Tensor, expected: Tensor) -> float:
    """Share of the expected ids that were found, over all queries."""
    return float((found[:, :, None] == expected[:, None, :]).any(dim=1).double().mean())


def search(index: CodeIndex, scores: Tensor, kind: str | int) -> Tensor:
    """Ids (Q, 10) by "hamming", by "all" codes' asymmetric distances, or within a shortlist of so many."""
    codes = scores > 0.5
    if kind == "hamming":
        return index.search(codes, K)[1]
    return index.search(codes, K, scores=scores, shortlist=None if kind == "all" else int(kind))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    warm_allocator()
    report = Report()
    say, target = report.say, report.target
    say("# Search, measured")
    say()
    say(
        f"Written by `python scripts/benchmark_search.py`. {heading()}; faiss {faiss.__version__}; "
        f"numpy {np.__version__}."
    )
    say(
        f"{N_CODES:,} codes, {CODES_A_PERSON} a person, whose bits depend on each other; the {K} nearest; medians. Recall "
        f"is the share of those by all asymmetric distances that is found, over {N_QUERIES} queries."
    )
    say()
    say(f"| bits | ranked | searches/s, one by one | searches/s, {N_QUERIES} at once | recall |")
    say("|---:|---|---:|---:|---:|")
    ratios, memories, off = {}, {}, 0.0
    for n_bits in N_BITS:
        index, scores = problem(n_bits, N_CODES, N_QUERIES)
        kinds: dict[str | int, str] = {
            "hamming": "by bits",
            **{size: f"by scores, of a shortlist of {size:,}" for size in SHORTLISTS},
            "all": "by scores, of all",
        }
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        expected = search(index, scores, "all")
        memories[n_bits] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        one, many = (
            milliseconds(
                {str(kind): lambda kind=kind, some=some: search(index, some, kind) for kind in kinds},  # type: ignore[misc]
                rounds=3,
            )
            for some in (scores[:1], scores)
        )
        for kind, name in kinds.items():
            rates = [n * 1000 / times.median(str(kind)) for n, times in ((1, one), (len(scores), many))]
            recall = found_again(search(index, scores, kind), expected)
            say(f"| {n_bits} | {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {recall:.3f} |")
        for size in SHORTLISTS[:2]:
            ratios[n_bits, size] = one.ratio("all", str(size)), many.ratio("all", str(size))
    say()
    for (n_bits, size), (alone, together) in ratios.items():
        target(
            f"{n_bits} bits, a shortlist of {size:,} {FACTOR} x as fast as all, one query at a time: {alone:.1f} x "
            f"({together:.1f} x in batches of {N_QUERIES})",
            alone >= FACTOR,
        )
    report.write(arguments.out / "search.md")
    report.finish()


if __name__ == "__main__":
    main()
