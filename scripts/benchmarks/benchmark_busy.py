"""Time the main jobs on an idle machine and with two busy processes, by how threads wait for each other.

    python scripts/benchmarks/benchmark_busy.py [--video FILE] [--rounds 3] [--out DIR]

Each job runs in a process of its own: three calls after one to warm up, of which the fastest counts, in --rounds turns
of all jobs, of which the median counts. Busy processes compute in a loop of Python and never wait. Prints and writes
DIR/busy.md. Exits with 1 if mAP is more than 2 x slower with busy processes, which get two of four shares of two
processors.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from benchmark_cluster import N_BITS, drawn
from measure import Report, benchmark_parser, heading

from facereel.functional import log_covariance, mean_average_precision
from facereel.models import pretrained_hasher
from facereel.models.encoders.casia import CasiaEncoder
from facereel.retrieval.backends.code_part import CodePart
from facereel.retrieval.clustering.linkage import cluster_tracks
from facereel.retrieval.code_index import CodeIndex
from facereel.video import TrackSettings
from facereel.video.decode import Video
from facereel.video.find_tracks import find_tracks

MOST_SLOWER = 2.0
N_THREADS = len(os.sched_getaffinity(0))
# The command `facereel` sets OMP_WAIT_POLICY; in a program that imports torch it is unset.
SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    f"{N_THREADS} threads": {"OMP_NUM_THREADS": str(N_THREADS)},
    f"{N_THREADS} threads that sleep": {"OMP_NUM_THREADS": str(N_THREADS), "OMP_WAIT_POLICY": "PASSIVE"},
}
MAP = "mAP, 500 x 200,000 codes of 64 bits"


def train_step() -> Callable[[], object]:
    """Return a step of the paper's encoder with half of the channels: 10 clips of 10 frames, and 10 stills."""
    encoder = CasiaEncoder(width=0.5)
    head = torch.nn.Linear(encoder.dim**2, 48)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], 1e-4)
    images, labels = torch.rand(110, 3, 64, 64), torch.arange(20) % 5

    def step() -> None:
        features = encoder(images)
        clips, stills = features[:100].reshape(10, 10, -1), features[100:, None]
        pooled = torch.cat([log_covariance(clips).flatten(1), log_covariance(stills).flatten(1)])
        scores = head(pooled).sigmoid()
        distances = torch.cdist(scores, scores).square()
        same = labels[:, None] == labels
        torch.autograd.backward(distances[same].mean() - distances[~same].mean())
        optimizer.step()
        optimizer.zero_grad()

    return step


def pooling() -> Callable[[], object]:
    """Return the forward and backward of the covariance layer."""
    frames = torch.randn(30, 30, 320, requires_grad=True)
    return lambda: torch.autograd.backward(log_covariance(frames).sum())


def encoding() -> Callable[[], object]:
    """Return the encoding of a track of ten crops."""
    model, crops = pretrained_hasher().eval(), torch.rand(1, 10, 3, 160, 160)

    def encode() -> None:
        with torch.inference_mode():
            model.encode_clips(crops)

    return encode


def grouping() -> Callable[[], object]:
    """Return the clustering of drawn codes."""
    codes, _ = drawn(5000)
    return lambda: cluster_tracks(codes, N_BITS, 0.181)


def searching() -> Callable[[], object]:
    """Return a search for one face."""
    random = np.random.default_rng(0)
    codes = random.integers(256, size=(10**6, 32), dtype=np.uint8)
    index = CodeIndex.of_parts(256, [CodePart(np.arange(10**6), codes)])
    query = torch.rand(1, 256) > 0.5
    return lambda: index.search(query, 10)


def precision() -> Callable[[], object]:
    """Return mAP of many codes."""
    queries, gallery = torch.rand(500, 64) > 0.5, torch.rand(200_000, 64) > 0.5
    of_queries, of_gallery = torch.arange(500) % 200, torch.arange(200_000) % 200
    return lambda: mean_average_precision(queries, gallery, of_queries, of_gallery)


def finding(video: str) -> Callable[[], object]:
    """Return the search for tracks in a film."""
    settings = TrackSettings(detector="yunet")
    return lambda: list(find_tracks(Video(Path(video)), settings, n_workers=torch.get_num_threads()))


JOBS = {
    "training step, 100 frames and 10 stills": train_step,
    "log-covariance of (30, 30, 320) with its gradient": pooling,
    "encode a track of 10 crops": encoding,
    "cluster 5,000 tracks": grouping,
    "search 1,000,000 codes of 256 bits": searching,
    MAP: precision,
}
FILM = "find tracks in a film"


def run(name: str, video: str) -> None:
    """Print the seconds of the fastest of three calls."""
    call = finding(video) if name == FILM else JOBS[name]()
    call()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    print(min(times))


@contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """Run processes that never wait."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(name: str, video: str, setting: str) -> float:
    """Return the seconds of a job in a new process."""
    others = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment = {**others, **SETTINGS[setting]}
    command = [sys.executable, __file__, "--run", name, "--video", video]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return float(out.split()[-1])


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--video", default="", help="film in which to find tracks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", help="run one job in this process")
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.video)
        return
    names = [*JOBS, *([FILM] if arguments.video else [])]
    times: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for n_busy in (0, 2):
            with busy(n_busy):
                for name in names:
                    for setting in SETTINGS:
                        seconds = measure(name, arguments.video, setting)
                        times.setdefault((name, setting, n_busy), []).append(seconds)
    report = Report()
    report.say("# With other work running, measured")
    report.say()
    report.say(f"Written by `python scripts/benchmarks/benchmark_busy.py`. {heading()}.")
    report.say("Wall time in ms on an idle machine and with two busy processes. Threads wait for each other in a loop")
    report.say("first; with OMP_WAIT_POLICY=PASSIVE, which the command `facereel` sets, they sleep at once.")
    report.say()
    cells = [f"{state}, {setting}" for state in ("idle", "busy") for setting in SETTINGS]
    report.say(f"| job | {' | '.join(cells)} |")
    report.say("|---|" + "---:|" * len(cells))
    median = {key: 1000 * statistics.median(its) for key, its in times.items()}
    for name in names:
        cells = [f"{median[name, setting, n_busy]:.1f}" for n_busy in (0, 2) for setting in SETTINGS]
        report.say(f"| {name} | {' | '.join(cells)} |")
    report.say()
    sleeping = list(SETTINGS)[-1]
    slower = median[MAP, sleeping, 2] / median[MAP, sleeping, 0]
    report.target(
        f"mAP {slower:.1f} x slower with two busy processes; the limit is {MOST_SLOWER:g}", slower <= MOST_SLOWER
    )
    report.write(arguments.out / "busy.md")
    report.finish()


if __name__ == "__main__":
    main()
