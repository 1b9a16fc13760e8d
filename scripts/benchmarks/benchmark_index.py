"""Compare index types: FAISS flat and ivf, and Milvus (milvus-lite), by equality, speed and memory.

    python scripts/benchmarks/benchmark_index.py [--equal 100000] [--codes 1000000] [--ways WAY ...]
        [--folder DIR] [--out DIR]

Prints and writes DIR/index_kinds.md, the source of the numbers in docs/results/index_kinds.md. Needs the extras cpu
(or gpu) and milvus, Linux, and about 1 GB in --folder. First compares distances and ids of FAISS and Milvus on --equal
codes;
then measures each index type with --codes codes in a new process, which loads an index made by another: memory is the
growth of that process, and the memory of milvus-lite's process. Exits with 1 if a target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from benchmark_search import CODES_A_PERSON, problem
from measure import Report, heading
from numpy.typing import NDArray
from torch import Tensor

from facereel.functional import unpack_codes
from facereel.retrieval import CodeIndex
from facereel.retrieval.backends.milvus import MilvusIndex
from facereel.system.optional import import_pymilvus

EQUAL_BITS = (12, 48, 64, 128)
EQUAL_KS = (10, 1000)
N_EQUAL_QUERIES = 50
SETS = (("people", 64), ("people", 256), ("random", 64))
WAYS = ("flat", "flat, mapped", "ivf", "milvus-lite")
N_QUERIES, AT_ONCE, K = 192, 64, 10
SECONDS = 2.0
RECALL = 0.9


def codes_of(kind: str, n_bits: int, n_codes: int, n_queries: int) -> tuple[Tensor, Tensor]:
    """Return packed codes (N, W) and queries (Q, K): of people (see `problem`), or of random bits."""
    if kind == "people":
        _, packed, scores = problem(n_bits, n_codes, n_queries)
        return packed, scores > 0.5
    generator = torch.Generator().manual_seed(0)
    width = -(-n_bits // 8)
    packed = torch.randint(256, (n_codes, width), generator=generator, dtype=torch.uint8)
    packed[:, -1] &= 256 - 2 ** (8 * width - n_bits)  # the padding is zero
    return packed, torch.rand(n_queries, n_bits, generator=generator) > 0.5


def check_equality(report: Report, n_codes: int, folder: Path) -> None:
    """Compare FAISS and Milvus on every query and rank."""
    report.say(
        f"{n_codes:,} codes with unordered ids, {N_EQUAL_QUERIES} queries, the "
        f"{' and '.join(f'{k:,}' for k in EQUAL_KS)} nearest codes: results of Milvus that differ from FAISS."
    )
    report.say()
    report.say("| codes | bits | distances compared | distances that differ | ids that differ |")
    report.say("|---|---:|---:|---:|---:|")
    n_off = 0
    for kind in ("random", "people"):
        for n_bits in EQUAL_BITS:
            packed, queries = codes_of(kind, n_bits, n_codes, N_EQUAL_QUERIES)
            ids = torch.randperm(n_codes, generator=torch.Generator().manual_seed(1)).numpy()
            flat, milvus = CodeIndex(n_bits), MilvusIndex(n_bits, str(folder / "equal.db"), f"{kind}_{n_bits}")
            for index in (flat, milvus):
                index.add_packed(packed.numpy(), ids)
            compared, off, off_ids = 0, 0, 0
            for k in EQUAL_KS:
                expected, found = flat.search(queries, k), milvus.search(queries, k)
                compared += expected[0].numel()
                off += int((expected[0] != found[0]).sum())
                off_ids += int((expected[1] != found[1]).sum())
            milvus.collection.drop()
            report.say(f"| {kind} | {n_bits} | {compared:,} | {off:,} | {off_ids:,} |")
            n_off += off + off_ids
    report.say()
    report.target(f"Milvus gives the results of FAISS, with ties in the same order: {n_off:,} differ", n_off == 0)
    report.say()


def open_index(way: str, n_bits: int, folder: Path) -> CodeIndex | MilvusIndex:
    if way == "milvus-lite":
        return MilvusIndex(n_bits, str(folder / "large.db"), f"bits_{n_bits}")
    return CodeIndex.load(folder / way.partition(",")[0], mapped="mapped" in way)


def make(way: str, n_bits: int, folder: Path) -> dict[str, float]:
    """Return the seconds to build an index of the codes in the folder."""
    packed: NDArray[np.uint8] = np.load(folder / "packed.npy")
    ids = np.arange(len(packed))
    started = processor_seconds()
    if way == "milvus-lite":
        open_index(way, n_bits, folder).add_packed(packed, ids)
        return {"made_s": processor_seconds() - started}
    index = CodeIndex(n_bits, way)
    index.add_packed(packed, ids)
    index.build()
    took = processor_seconds() - started
    index.save(folder / way)
    return {"made_s": took}


def server() -> int | None:
    """Return the process id of milvus-lite if it runs, else None."""
    manager = sys.modules.get("milvus_lite.server_manager")
    servers = manager.server_manager_instance._servers.values() if manager else ()
    return next((one._p.pid for one in servers), None)


def processor_seconds() -> float:
    """Return the CPU seconds of this process and milvus-lite's; other programs do not count."""
    used = time.process_time()
    if pid := server():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def memory(process: int | str = "self") -> tuple[int, int]:
    """Return the private bytes of a process, and its bytes of mapped files, which others may share."""
    lines = dict(line.split(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    own, of_files = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return own, of_files


def measure(way: str, n_bits: int, folder: Path) -> dict[str, float]:
    """Return the measurements of an existing index in this new process."""
    queries = unpack_codes(torch.from_numpy(np.load(folder / "queries.npy")), n_bits)
    limits = torch.from_numpy(np.load(folder / "limits.npy"))
    CodeIndex(n_bits).search(queries[:1], 1)
    own, of_files = memory()
    if way == "milvus-lite":
        import_pymilvus()  # takes seconds, which are not measured
    started = processor_seconds()
    index = open_index(way, n_bits, folder)
    index.search(queries[:1], K)
    opened = processor_seconds() - started
    found = torch.cat([index.search(some, K)[0] for some in torch.split(queries, AT_ONCE)])
    rates = {}
    for name, size in (("one", 1), ("many", AT_ONCE)):
        parts, n_parts = torch.split(queries, size), 0
        started = processor_seconds()
        while (took := processor_seconds() - started) < SECONDS:
            index.search(parts[n_parts % len(parts)], K)
            n_parts += 1
        rates[name] = size * n_parts / took
    now_own, now_of_files = memory()
    result = {
        "opened_s": opened,
        "own": now_own - own,
        "of_files": now_of_files - of_files,
        **rates,
        "recall": float((found <= limits[:, None]).double().mean()),
    }
    if pid := server():
        result["own"], result["of_files"] = memory(pid)
    return result


def in_a_process(job: str, way: str, n_bits: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", job, "--way", way, "--bits", str(n_bits), "--folder", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(
            run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"ended with {run.returncode}"
        )
    return json.loads(run.stdout.splitlines()[-1])


def compare(report: Report, n_codes: int, folder: Path, ways: list[str]) -> None:
    """Print the table of index types."""
    report.say(
        f"{n_codes:,} codes, {CODES_A_PERSON} per person with correlated bits, or with random bits; the {K} nearest. "
        f"Recall: fraction of results no farther than flat's {K}th, over {N_QUERIES} queries. Memory: growth of the "
        "process by loading and searching, private and of mapped files, which the system may reclaim and processes "
        "share; for milvus-lite the memory of its server. Times are CPU times of one core, including milvus-lite's "
        "server; other programs do not count."
    )
    report.say()
    report.say(
        f"| codes | bits | index | recall | searches/s, one by one | {AT_ONCE} at once | memory, MB | mapped files, MB "
        "| build, s | open and first search, s | on disk, MB |"
    )
    report.say("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    recalls: dict[tuple[Any, ...], float] = {}
    for kind, n_bits in SETS:
        packed, queries = codes_of(kind, n_bits, n_codes, N_QUERIES)
        flat = CodeIndex(n_bits)
        flat.add_packed(packed.numpy(), np.arange(n_codes))
        np.save(folder / "packed.npy", packed.numpy())
        np.save(folder / "queries.npy", np.packbits(queries.numpy(), axis=1))
        np.save(folder / "limits.npy", flat.search(queries, K)[0][:, -1].numpy())
        del flat, packed
        made: dict[str, float] = {}
        for way in ways:
            base = way.partition(",")[0]
            if kind == "random" and base != "ivf":  # the others give exact results for any codes
                continue
            try:
                if base not in made:
                    made[base] = in_a_process("make", base, n_bits, folder)["made_s"]
                found = in_a_process("measure", way, n_bits, folder)
            except RuntimeError as error:
                report.say(f"| {kind} | {n_bits} | {way} | {error} |")
                report.target(f"{way}, {n_bits} bits: runs", False)
                continue
            files = [folder / "large.db"] if base == "milvus-lite" else list((folder / base).iterdir())
            size = sum(file.stat().st_size for file in files)
            report.say(
                f"| {kind} | {n_bits} | {way} | {found['recall']:.3f} | {found['one']:,.0f} | {found['many']:,.0f} "
                f"| {found['own'] / 1e6:,.0f} | {found['of_files'] / 1e6:,.0f} | {made[base]:,.1f} "
                f"| {found['opened_s']:.2f} | {size / 1e6:,.0f} |"
            )
            recalls[kind, n_bits, way] = found["recall"]
        (folder / "large.db").unlink(missing_ok=True)
    report.say()
    for (kind, n_bits, way), recall in recalls.items():
        wanted = 1.0 if way.startswith(("flat", "milvus")) else RECALL
        if kind == "people":
            report.target(f"{way}, {n_bits} bits, finds {wanted:.0%} of people's codes: {recall:.3f}", recall >= wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--equal", type=int, default=100_000)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="folder for the indexes; a temporary one by default")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--job", choices=("make", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--bits", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    if arguments.job:
        job = make if arguments.job == "make" else measure
        print(json.dumps(job(arguments.way, arguments.bits, arguments.folder)))
        return
    report = Report()
    report.say("# Index types, measured")
    report.say()
    report.say(
        f"Written by `python scripts/benchmarks/benchmark_index.py`. {heading()}; faiss {faiss.__version__}; "
        "milvus-lite 2.5.1."
    )
    report.say()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if arguments.equal:
            check_equality(report, arguments.equal, Path(name))
        compare(report, arguments.codes, Path(name), arguments.ways)
    report.write(arguments.out / "index_kinds.md")
    report.finish()


if __name__ == "__main__":
    main()
