"""Measure start-up time, search time, size and fit of an index of a million tracks.

    python scripts/benchmarks/benchmark_track_index.py [--tracks 1000000] [--out docs/results/benchmarks]

Features are random, ten of each person and ten tracks per video; codes of 256 bits are fitted to them. Results of a
search are ranked by features and merged per video, as in `facereel search`. Start-up is a new process that opens the
index, loads the model and searches once. There are no thumbnails, which are separate files.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Report, heading
from torch import Tensor
from torch.nn.functional import normalize

from facereel.models import pretrained_hasher
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.retrieval.track_features import pack_feature
from facereel.retrieval.track_index import TrackIndex, Within

N_BITS = 256
A_VIDEO = 10
N_QUERIES = 100
N_DIMS, A_PERSON = 128, 10
MOST_SEARCH_MS, MOST_START_S, MOST_FIT_S = 20.0, 3.0, 60.0

START = """
import sys, time
started = time.perf_counter()
import torch
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.track_index import TrackIndex
imported = time.perf_counter()
search = FaceSearch(sys.argv[1])
opened = time.perf_counter()
search.index.search(torch.zeros(search.index.n_bits, dtype=torch.bool), 10)
print(imported - started, opened - imported, time.perf_counter() - opened)
"""


def features(n_tracks: int, seed: int) -> Iterator[Tensor]:
    """Yield (N_DIMS,) features: a common mean, a person, and what differs between tracks of a person."""
    random = np.random.default_rng(0)
    mean = random.standard_normal(N_DIMS)
    random = np.random.default_rng(seed)
    for first in range(0, n_tracks, 10_000):
        people = random.standard_normal((10_000 // A_PERSON, 1, N_DIMS))
        tracks = mean + people + 0.5 * random.standard_normal((10_000 // A_PERSON, A_PERSON, N_DIMS))
        yield from torch.from_numpy(tracks.reshape(-1, N_DIMS)[: n_tracks - first]).float()


def fill(index: TrackIndex, n_tracks: int) -> None:
    """Write tracks without `upsert_video`, which would need a transaction per video."""
    with index._database.write() as database:
        videos = ((i, f"/archive/{i % 1000:03}/video_{i:06}.mp4", "0" * 64, 1.7e9 + i, f"/tracks/video_{i:06}.parquet")
                  for i in range(n_tracks // A_VIDEO))  # fmt: skip
        database.executemany("INSERT INTO videos (id, path, stamp, date, source) VALUES (?, ?, ?, ?, ?)", videos)
        tracks = ((i // A_VIDEO, i % A_VIDEO, 6.0 * i, 6.0 * i + 4.2, bytes(N_BITS // 8), pack_feature(feature))
                  for i, feature in enumerate(features(n_tracks, 1)))  # fmt: skip
        query = "INSERT INTO tracks (video, number, start_s, end_s, code, feature) VALUES (?, ?, ?, ?, ?, ?)"
        database.executemany(query, tracks)


def queries() -> list[Query]:
    """Return queries of new people."""
    crop, code = np.zeros((1, 1, 3), np.uint8), torch.zeros(N_BITS, dtype=torch.bool)
    return [Query(None, crop, code, None, feature=normalize(one, dim=0)) for one in features(N_QUERIES, 2)]


def milliseconds(search: FaceSearch, within: Within | None = None) -> list[float]:
    """Return the times of all queries in ascending order."""
    times = []
    for query in queries():
        start = time.perf_counter()
        search.search(query, 10, within=within)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tracks", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmarks"))
    arguments = parser.parse_args()
    report = Report()
    report.say("# An index of a million tracks")
    report.say()
    report.say(
        f"{heading()}; made by `scripts/benchmarks/benchmark_track_index.py`; {arguments.tracks:,} tracks, "
        f"{N_BITS} bits"
    )
    report.say()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        about = {"detector": "mtcnn", "size": 200, "margin": 1.4}
        index = TrackIndex.create(path, pretrained_hasher(N_BITS), about, {"features": True})
        fill(index, arguments.tracks)
        start, start_cpu = time.perf_counter(), time.process_time()
        index.refit()
        fit_s, fit_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        index.save_codes()
        report.say(
            f"- fit to the tracks, and encode all of them again: {fit_s:.1f} s, {fit_cpu_s:.1f} s of processor time"
        )
        for name, files in {"index.sqlite": [path / "index.sqlite"], "codes": list(path.glob("codes/*"))}.items():
            size = sum(file.stat().st_size for file in files)
            report.say(f"- {name}: {size / 1e6:,.0f} MB, {size / arguments.tracks:.0f} bytes per track")
        run = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, check=True)
        imported, opened, first = map(float, run.stdout.split())
        report.say(f"- new process: {imported:.2f} s for imports, {opened:.2f} s to open the index and load the model, "
                   f"{first:.2f} s for the first search, which loads the codes")  # fmt: skip
        search = FaceSearch(path)
        search.search(queries()[0])
        times = milliseconds(search)
        report.say(
            f"- a search after the query is encoded: median {times[N_QUERIES // 2]:.1f} ms, "
            f"{times[int(0.95 * N_QUERIES)]:.1f} ms at the 95th percentile; {torch.get_num_threads()} threads"
        )
        some = milliseconds(search, Within(folder="/archive/007"))
        report.say(f"- a search in one folder, with a thousandth of all videos: median {some[N_QUERIES // 2]:.1f} ms")
    report.say()
    report.target(f"a search takes {times[int(0.95 * N_QUERIES)]:.1f} ms; the limit is {MOST_SEARCH_MS:g}",
                  times[int(0.95 * N_QUERIES)] <= MOST_SEARCH_MS)  # fmt: skip
    start = imported + opened + first
    report.target(f"a start takes {start:.2f} s, with imports; the limit is {MOST_START_S:g}", start <= MOST_START_S)
    report.target(f"a fit takes {fit_s:.1f} s; the limit is {MOST_FIT_S:g}", fit_s <= MOST_FIT_S)
    report.write(arguments.out / "track_index.md")
    report.finish()


if __name__ == "__main__":
    main()
