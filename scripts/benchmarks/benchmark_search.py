"""Benchmark search among a million codes: by bits, by real-valued queries, and by reranking a Hamming shortlist.

python scripts/benchmarks/benchmark_search.py [--out DIR]

Prints and writes DIR/search.md. Needs the extra cpu (or gpu). Exits with 1 if a target is missed.
"""

from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import torch
from measure import Report, Times, benchmark_parser, heading, milliseconds, warm_allocator
from torch import Tensor

from facereel.functional import pack_codes, unpack_codes
from facereel.retrieval import CodeIndex

N_CODES = 1_000_000
N_BITS = (64, 256)
N_QUERIES = 64
SHORTLISTS = (100, 1000)
K = 10
CODES_A_PERSON = 20
PRODUCT = "product"
FACTOR = 5


def problem(n_bits: int, n_codes: int, n_queries: int) -> tuple[CodeIndex, Tensor, Tensor]:
    """Return an index of people's codes, the packed codes, and scores of other images of some of the people.

    A person is a normal vector in n_bits / 4 dimensions, an image is the person plus as much noise, and a score is the
    sigmoid of a random projection, so the bits of an image are correlated, as those of a network.
    """
    generator = torch.Generator().manual_seed(0)
    n_dims = n_bits // 4
    people = torch.randn(max(1, n_codes // CODES_A_PERSON), n_dims, generator=generator)
    projection = torch.randn(n_dims, n_bits, generator=generator) / n_dims**0.5

    def scores(labels: Tensor) -> Tensor:
        images = people[labels] + torch.randn(len(labels), n_dims, generator=generator)
        return torch.sigmoid(2 * images @ projection)

    index, packed = CodeIndex(n_bits), []
    for start in range(0, n_codes, 100_000):
        ids = torch.arange(start, min(start + 100_000, n_codes))
        codes = scores(ids % len(people)) > 0.5
        index.add(codes, ids)
        packed.append(pack_codes(codes))
    return index, torch.cat(packed), scores(torch.randint(len(people), (n_queries,), generator=generator))


def product_search(packed: Tensor, scores: Tensor) -> Tensor:
    """Return ids (Q, 10) by the alternative: unpack codes block by block to float32, and use matrix products."""
    distances, ids = torch.zeros(len(scores), 0), torch.zeros(len(scores), 0, dtype=torch.int64)
    for start in range(0, len(packed), 2**14):
        places = torch.arange(start, min(start + 2**14, len(packed)))
        codes = unpack_codes(packed[places], scores.shape[1]).float()
        block = torch.addmm(codes.sum(dim=1), scores, codes.T, alpha=-2)  # without |scores|^2
        distances = torch.cat([distances, block], dim=1)
        ids = torch.cat([ids, places.expand(len(scores), -1)], dim=1)
        distances, nearest = distances.topk(min(K, distances.shape[1]), largest=False)
        ids = ids.gather(1, nearest)
    return ids


def error(packed: Tensor, scores: Tensor, distances: Tensor, ids: Tensor) -> float:
    """Return the largest difference of asymmetric distances from their definition in float64."""
    codes = unpack_codes(packed[ids.flatten()], scores.shape[1]).view(*ids.shape, -1)
    expected = (scores.double()[:, None, :] - codes.double()).square().sum(dim=2)
    return float((distances - expected).abs().max())


def found_again(found: Tensor, expected: Tensor) -> float:
    """Return the fraction of expected ids that were found, over all queries."""
    return float((found[:, :, None] == expected[:, None, :]).any(dim=1).double().mean())


def search(index: CodeIndex, scores: Tensor, kind: str | int) -> Tensor:
    """Return ids (Q, 10): "hamming", "all" (asymmetric distances of all codes), or from a shortlist of this size."""
    codes = scores > 0.5
    if kind == "hamming":
        return index.search(codes, K)[1]
    return index.search(codes, K, scores=scores, rerank_k=None if kind == "all" else int(kind))[1]


def times_of(index: CodeIndex, packed: Tensor, scores: Tensor, kinds: list[str | int]) -> Times:
    """Return the times of each kind of search, and of search by matrix products."""
    calls: dict[str, Callable[[], object]] = {str(kind): partial(search, index, scores, kind) for kind in kinds}
    return milliseconds({**calls, PRODUCT: partial(product_search, packed, scores)}, rounds=3)


def main() -> None:
    parser = benchmark_parser(__doc__)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    warm_allocator()
    report = Report()
    say, target = report.say, report.target
    say("# Search, measured")
    say()
    say(
        f"Written by `python scripts/benchmarks/benchmark_search.py`. {heading()}; faiss {faiss.__version__}; "
        f"numpy {np.__version__}."
    )
    say(
        f"{N_CODES:,} codes with correlated bits, {CODES_A_PERSON} per person; the {K} nearest; medians. Recall is the "
        f"fraction found of the nearest by all asymmetric distances, over {N_QUERIES} queries."
    )
    say()
    say(f"| bits | ranked | searches/s, one by one | searches/s, {N_QUERIES} at once | recall |")
    say("|---:|---|---:|---:|---:|")
    ratios, products, off = {}, {}, 0.0
    for n_bits in N_BITS:
        index, packed, scores = problem(n_bits, N_CODES, N_QUERIES)
        kinds: dict[str | int, str] = {
            "hamming": "by bits",
            **{size: f"by scores, in a shortlist of {size:,}" for size in SHORTLISTS},
            "all": "by scores, in all",
        }
        distances, expected = index.search(scores > 0.5, K, scores=scores)
        off = max(off, error(packed, scores, distances, expected))
        one, many = (times_of(index, packed, some, list(kinds)) for some in (scores[:1], scores))
        found = {kind: search(index, scores, kind) for kind in kinds}
        kinds[PRODUCT], found[PRODUCT] = "by scores, in all, by matrix products", product_search(packed, scores)
        for kind, name in kinds.items():
            alone, together = 1000 / one.median(str(kind)), 1000 * len(scores) / many.median(str(kind))
            say(f"| {n_bits} | {name} | {alone:,.1f} | {together:,.0f} | {found_again(found[kind], expected):.3f} |")
        products[n_bits] = one.ratio(PRODUCT, "all"), many.ratio(PRODUCT, "all")
        for size in SHORTLISTS:
            ratios[n_bits, size] = one.ratio("all", str(size)), many.ratio("all", str(size))
    say()
    for (n_bits, size), (alone, together) in ratios.items():
        target(
            f"{n_bits} bits, a shortlist of {size:,} {FACTOR} x as fast as all, one query at a time: {alone:.1f} x "
            f"({together:.1f} x in batches of {N_QUERIES})",
            alone >= FACTOR,
        )
    for n_bits, (alone, together) in products.items():
        target(
            f"{n_bits} bits, all by tables faster than by matrix products, one query at a time: {alone:.1f} x "
            f"({together:.1f} x in batches of {N_QUERIES})",
            alone > 1,
        )
    target(f"distances equal their definition in float64, to 1e-5: difference {off:.0e}", off <= 1e-5)
    report.write(arguments.out / "search.md")
    report.finish()


if __name__ == "__main__":
    main()
