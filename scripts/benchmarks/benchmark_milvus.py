"""Compare a Milvus server with a flat FAISS index: time to insert a million codes, and to search them with filters.

    .venv-milvus/bin/milvus-server --data DIR          # installed by make test-milvus
    python scripts/benchmarks/benchmark_milvus.py --uri http://127.0.0.1:19530 [--codes 1000000] [--out DIR]

Prints and writes DIR/milvus.md. Needs the extras cpu (or gpu) and milvus, and a server. Makes a collection there and
drops it at the end. Exits with 1 if the results of Milvus and FAISS differ.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial

import faiss
import numpy as np
import torch
from benchmark_search import CODES_A_PERSON, problem
from measure import Report, benchmark_parser, heading, milliseconds
from torch import Tensor

from facereel.retrieval.backends.milvus import MilvusIndex

N_BITS, N_QUERIES, K = 256, 64, 10
CODES_A_VIDEO, VIDEOS_A_FOLDER = 100, 10
# Folder and earliest date of the searches in one folder, and in the later half of the videos.
FOLDER = "/archive/0007"

# Distances and ids by queries, for each kind of search.
Searches = Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]]


def videos(n_codes: int) -> list[tuple[str, float]]:
    """Return path and date of the video of each code; the date is the number of the video."""
    numbers = [i // CODES_A_VIDEO for i in range(n_codes)]
    return [(f"/archive/{n // VIDEOS_A_FOLDER:04d}/{n:06d}.mp4", float(n)) for n in numbers]


def in_turns(searches: Searches, queries: Tensor) -> str:
    """Return the cells of a row: the median of each search in milliseconds."""
    calls = {name: partial(search, queries[:1]) for name, search in searches.items()}
    calls["many"] = partial(searches["all"], queries)
    times = milliseconds(calls, rounds=5, seconds=1.0)
    return " | ".join(f"{times.median(name):,.1f}" for name in ("all", "many", "folder", "dates"))


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--uri", required=True, help="address of the server")
    parser.add_argument("--codes", type=int, default=1_000_000, help="number of codes")
    arguments = parser.parse_args()
    n = arguments.codes
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat, codes, scores = problem(N_BITS, n, N_QUERIES)
    queries, packed, ids, rows = scores > 0.5, codes.numpy(), np.arange(n), videos(n)
    started = time.perf_counter()
    type(flat)(N_BITS).add_packed(packed, ids)
    flat_s = time.perf_counter() - started
    milvus = MilvusIndex(N_BITS, arguments.uri, f"benchmark_{uuid.uuid4().hex}")
    try:
        started = time.perf_counter()
        milvus.collection.upsert(packed, ids, rows)
        inserted_s = time.perf_counter() - started
        middle = rows[n // 2][1]
        subsets = {
            "folder": torch.tensor([i for i, (path, _) in enumerate(rows) if path.startswith(FOLDER + "/")]),
            "dates": torch.arange(n)[[date >= middle for _, date in rows]],
        }
        by_flat = {"all": partial(flat.search, k=K)}
        by_flat |= {name: partial(flat.search, k=K, subset_ids=subset) for name, subset in subsets.items()}
        parts = {
            "all": milvus,
            "folder": milvus.in_videos(FOLDER, None, None),
            "dates": milvus.in_videos(None, middle, None),
        }
        by_milvus = {name: partial(part.search, k=K) for name, part in parts.items()}
        client = milvus.collection.client
        report = Report()
        report.say("# A Milvus server, measured")
        report.say()
        report.say(
            f"Written by `python scripts/benchmarks/benchmark_milvus.py --uri ...`. {heading()}; faiss "
            f"{faiss.__version__}; Milvus {client.get_server_version()}, standalone, with its default settings, on the "
            f"same machine. {n:,} codes of {N_BITS} bits, {CODES_A_PERSON} per person with correlated bits, in videos "
            f"of {CODES_A_VIDEO} codes; the {K} nearest, exact. Times are medians of what a caller waits, and include "
            "the client. A folder has a thousandth of the videos, and since a date are half of them. FAISS is given "
            "the numbers of these codes; Milvus filters by path and date."
        )
        report.say()
        report.say(
            f"| backend | insert, s | one search, ms | {N_QUERIES} at once, ms | in a folder, ms | since a date, ms |"
        )
        report.say("|---|---:|---:|---:|---:|---:|")
        report.say(f"| FAISS, flat | {flat_s:,.1f} | {in_turns(by_flat, queries)} |")
        report.say(f"| Milvus, as inserted | {inserted_s:,.1f} | {in_turns(by_milvus, queries)} |")
        n_off = differences(by_flat, by_milvus, queries)
        started = time.perf_counter()
        client.flush(milvus.collection.name)
        flushed_s = time.perf_counter() - started
        report.say(f"| Milvus, after a flush of {flushed_s:.1f} s | | {in_turns(by_milvus, queries)} |")
        n_off += differences(by_flat, by_milvus, queries)
        report.say()
        report.target(f"Milvus gives the distances and ids of FAISS, with each filter: {n_off:,} differ", n_off == 0)
        report.write(arguments.out / "milvus.md")
    finally:
        milvus.collection.drop()
    report.finish()


def differences(searches: Searches, others: Searches, queries: Tensor) -> int:
    """Return how many distances and ids of two sets of searches differ."""
    return sum(
        int((a != b).sum())
        for name, search in searches.items()
        for a, b in zip(search(queries), others[name](queries), strict=True)
    )


if __name__ == "__main__":
    main()
