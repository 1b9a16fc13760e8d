"""Measure how fast a video becomes tracks and codes, and whether memory stays constant over a long video.

    python scripts/benchmarks/benchmark_ingest.py VIDEO ... [--detector mtcnn yunet] [--long LONG_VIDEO]

The settings default to those of `facereel ingest`. Each part is timed alone on the same video: decoding every frame (as
a player does), decoding and sampling frames, and finding faces in the sampled frames; then all of ingest, with one
thread that finds faces and with one for each processor; then encoding the tracks. Processor time is that of all
threads. If all processors were free, ingest would take it divided by their number, so that speed is printed too. With
--long a long video is ingested in a new process, with its memory sampled.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
from measure import Report, heading

from facereel.models import pretrained_hasher
from facereel.parallel.pool import n_processors
from facereel.retrieval.encode import encode_clip
from facereel.video import TrackSettings, Video, find_tracks, make_detector
from facereel.video.detector import Image
from facereel.video.find_faces import find_faces
from facereel.video.ingest import Processors, ingest, one_opencv_thread
from facereel.video.track_file import read_tracks, track_path, write_tracks

AIM = 25.0
# Of decoded frames that are in memory at a time.
MOST_BYTES = 500_000_000
# Largest growth of memory from the first quarter of a long video to its end.
MOST_GROWTH_MB = 50.0


class Timing(NamedTuple):
    """Seconds of a call."""

    wall: float
    processor: float


def timed(work: Callable[[], Any]) -> tuple[Timing, Any]:
    """Return the time and the result of a call."""
    start, used = time.perf_counter(), time.process_time()
    result = work()
    return Timing(time.perf_counter() - start, time.process_time() - used), result


def decode_all(video: Path) -> int:
    """Return the number of frames, after decoding all of them."""
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def parts(video: Path, detectors: Sequence[str], report: Report) -> None:
    """Time each part alone, and all parts together."""
    fps = TrackSettings().fps
    decoded, n_frames = timed(lambda: decode_all(video))
    sampled, n_sampled = timed(lambda: sum(1 for _ in Video(video).sample(fps)))
    length = n_sampled / fps
    first = next(Video(video).sample(fps)).image
    report.say(f"## {video.name}")
    report.say()
    report.say(
        f"{length:.1f} s, {first.shape[1]} x {first.shape[0]}, {n_frames} frames, {n_sampled} sampled, "
        f"{fps:g} per second"
    )
    report.say()
    report.say(
        "| part | detector | processor, ms a second of film | x real time, wall | x real time, processors free |"
    )
    report.say("|---|---|---|---|---|")

    def row(name: str, detector: str, timing: Timing, seconds: float, workers: int = 1) -> None:
        report.say(
            f"| {name} | {detector} | {timing.processor / seconds * 1000:.1f} | {seconds / timing.wall:.1f} "
            f"| {workers * seconds / timing.processor:.1f} |"
        )

    row("decoding every frame (FFmpeg's threads)", "", decoded, length)
    row("decoding and sampling", "", sampled, length)
    frames = [frame.image for frame in islice(Video(video).sample(fps), MOST_BYTES // first.nbytes)]
    finding = {name: find_all(name, frames) for name in detectors}
    for name, (timing, n_faces) in finding.items():
        row(f"finding {n_faces / len(frames):.2f} faces a frame, one thread", name, timing, len(frames) / fps)
    workers = n_processors()
    for name in detectors:
        for n_threads in sorted({1, workers}):
            timing, (n_tracks, n_crops, encoding) = whole(video, TrackSettings(detector=name), n_threads)
            row(f"ingest, {n_threads} of {workers} threads find faces", name, timing, length, workers)
        row(f"encoding {n_tracks} tracks of {n_crops} crops", name, encoding, length)
    report.say()
    speed = workers * length / timing.processor
    report.target(f"{speed:.1f} x real time by {detectors[-1]} with free processors, aim {AIM:g}", speed >= AIM)
    report.say()


def find_all(name: str, frames: list[Image]) -> tuple[Timing, int]:
    """Return the time to find the faces in decoded frames in one thread, and their number."""
    detector = make_detector(name)
    with one_opencv_thread():
        return timed(lambda: sum(len(find_faces(detector, image)) for image in frames))


def whole(video: Path, settings: TrackSettings, n_threads: int) -> tuple[Timing, tuple[int, int, Timing]]:
    """Time `facereel ingest` without starting Python, and encoding its tracks."""
    model = pretrained_hasher()
    with tempfile.TemporaryDirectory() as folder:
        timing, _ = timed(lambda: ingest([video], Path(folder), settings, Processors(n_threads)))
        crops = [track.crops for track in read_tracks(track_path(Path(folder), video))]
        encoding, _ = timed(lambda: [encode_clip(clip, settings.margin, model) for clip in crops])
    return timing, (len(crops), sum(map(len, crops)), encoding)


def resident_mb() -> float:
    """Return the resident memory of this process in MB; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_long(video: Path, out: Path, settings: TrackSettings, samples: Any) -> None:
    """Ingest in this process, and record its memory on the way."""
    opened = Video(video)

    def advance(seconds: float) -> None:
        if int(seconds) % 30 == 0:
            samples.append((seconds, resident_mb()))

    write_tracks(out, opened, find_tracks(opened, settings, n_processors(), advance), settings)


def memory(video: Path, settings: TrackSettings, report: Report) -> None:
    """Measure memory over a long video."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, tempfile.TemporaryDirectory() as folder:
        samples = manager.list()
        process = context.Process(target=run_long, args=(video, Path(folder) / "long.parquet", settings, samples))
        start = time.perf_counter()
        process.start()
        process.join()
        seconds = time.perf_counter() - start
        seen = list(samples)
    length = seen[-1][0]
    report.say()
    report.say(f"{video.name}: {length / 60:.1f} minutes in {seconds / 60:.1f}, {length / seconds:.1f} x real time")
    at = {share: next(mb for s, mb in seen if s >= share * length) for share in (0.05, 0.25, 0.5, 0.75, 1.0)}
    report.say("memory in MB: " + ", ".join(f"{mb:.0f} after {share:.0%}" for share, mb in at.items()))
    report.say()
    growth = at[1.0] - at[0.25]
    report.target(
        f"memory grows by {growth:.0f} MB over the last three quarters, the limit is {MOST_GROWTH_MB:g}",
        growth <= MOST_GROWTH_MB,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--long", type=Path)
    parser.add_argument("--detector", nargs="+", default=["mtcnn", "yunet"], dest="detectors")
    parser.add_argument("--page", type=Path, help="file to write the results to")
    options = parser.parse_args()
    report = Report()
    report.say("# From film to tracks and codes")
    report.say()
    report.say(f"{heading()}; made by `scripts/benchmarks/benchmark_ingest.py`")
    report.say()
    for video in options.videos:
        parts(video, options.detectors, report)
    if options.long is not None:
        memory(options.long, TrackSettings(detector=options.detectors[-1]), report)
    if options.page is not None:
        report.write(options.page)
    report.finish()


if __name__ == "__main__":
    main()
