"""Compare ingest and index in one process and with Ray workers, on one machine and the same videos.

    python scripts/benchmarks/benchmark_ray.py VIDEO_DIR [--workers 2] [--out docs/results/benchmarks/ray.md]

Each is a separate command, as a user calls it, one after the other. Memory is the peak of a command and all processes
it started, with shared memory counted once (PSS). Memory and CPU seconds are read from /proc twice per second, so this
needs Linux.
Exits with 1 if track files or codes differ.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from measure import Report, heading

_START = "from facereel.parallel.executor import RayEngine\nwith RayEngine(n_workers={})._connected(): pass"


class Cost(NamedTuple):
    """Cost of a command and all processes that it started."""

    seconds: float
    cpu_s: float
    megabytes: float


def run(*arguments: object) -> Cost:
    """Return the cost of Python with these arguments, sampled on the way."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    most, cpu_s = 0.0, dict[int, float]()
    while process.poll() is None:
        now = family(process.pid)
        cpu_s |= now
        most = max(most, sum(megabytes(pid) for pid in now))
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{arguments} ended with {process.returncode}")
    return Cost(time.perf_counter() - start, sum(cpu_s.values()), most)


def family(first: int) -> dict[int, float]:
    """Return a process and its descendants, with the CPU seconds of each."""
    children: dict[int, list[int]] = defaultdict(list)
    cpu_s: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # the fields from the third, the state
        except OSError:  # the process has ended
            continue
        pid = int(path.parent.name)
        children[int(fields[1])].append(pid)
        cpu_s[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = [first]
    for pid in found:
        found += children[pid]
    return {pid: cpu_s[pid] for pid in found if pid in cpu_s}


def megabytes(pid: int) -> float:
    """Return the memory of a process in MB, with its part of shared memory; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def held(index: Path) -> list[Any]:
    """Return the rows of an index, without the paths of track files."""
    database = sqlite3.connect(index / "index.sqlite")
    rows = database.execute("SELECT videos.path, stamp, date, tracks.* FROM tracks JOIN videos ON videos.id = video")
    return rows.fetchall()


def main() -> None:
    """Run all commands and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmarks/ray.md"))
    arguments = parser.parse_args()
    report = Report()
    report.say("# Ray against one process\n")
    report.say(f"{heading()}; made by `scripts/benchmarks/benchmark_ray.py`\n")
    report.say(f"Load before the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.\n")
    ray = ("--engine", "ray", "--workers", arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        report.say("| command | seconds | CPU seconds | memory, MB |\n|---|---:|---:|---:|")
        for name, command in {
            "Ray alone, started and stopped": ("-c", _START.format(arguments.workers)),
            "ingest": ("-m", "facereel", "ingest", arguments.videos, "--out", out / "here"),
            f"ingest, {arguments.workers} Ray workers": (
                *("-m", "facereel", "ingest", arguments.videos, "--out", out / "ray", *ray),
            ),
            "index": ("-m", "facereel", "index", out / "here", "--out", out / "index"),
            f"index, {arguments.workers} Ray workers": (
                *("-m", "facereel", "index", out / "here", "--out", out / "ray-index", *ray),
            ),
        }.items():
            cost = run(*command)
            report.say(f"| {name} | {cost.seconds:.1f} | {cost.cpu_s:.1f} | {cost.megabytes:.0f} |")
        here, there = ({path.name: path.read_bytes() for path in (out / name).iterdir()} for name in ("here", "ray"))
        rows = held(out / "index")
        report.say()
        report.target(f"{len(here)} track files are equal, byte by byte", here == there)
        report.target(f"{len(rows)} tracks have equal ids and codes", rows == held(out / "ray-index"))
    report.write(arguments.out)
    report.finish()


if __name__ == "__main__":
    main()
