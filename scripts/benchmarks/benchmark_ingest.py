"""Measure how fast a video becomes tracks and codes, and whether memory stays constant over a long video.

    python scripts/benchmarks/benchmark_ingest.py VIDEO [--long LONG_VIDEO]

The settings default to those of `facereel ingest`. Each part is timed alone on the same video: decoding every frame
(as a player does), decoding and sampling frames, finding faces in the sampled frames, tracking and cropping, encoding
the tracks; then all together. With --long a long video is ingested in a new process, with its memory sampled.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from measure import Report, heading

from facereel.models import pretrained_hasher
from facereel.parallel.pool import n_processors
from facereel.retrieval.encode import encode_clip
from facereel.video import TrackSettings, Video, find_tracks, make_detector
from facereel.video.find_faces import find_faces
from facereel.video.track_file import read_tracks, write_tracks

AIM = 3.0
# Largest growth of memory from the first quarter of a long video to its end.
MOST_GROWTH_MB = 50.0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the result of a call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def decode_all(video: Path) -> int:
    """Return the number of frames, after decoding all of them."""
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def parts(video: Path, settings: TrackSettings, report: Report) -> None:
    """Time each part alone, and all parts together."""
    decode_s, n_frames = timed(lambda: decode_all(video))
    sample_s, frames = timed(lambda: list(Video(video).sample(settings.fps)))
    length = frames[-1].seconds + 1 / settings.fps
    size = frames[0].image.shape
    report.say(f"{video.name}: {length:.1f} s, {size[1]} x {size[0]}, {n_frames} frames, {len(frames)} sampled")
    detector = make_detector(settings.detector)
    find_s, faces = timed(lambda: [find_faces(detector, frame.image) for frame in frames])
    report.say(f"faces per frame: {np.mean([len(found) for found in faces]):.2f}")
    model = pretrained_hasher()
    workers = n_processors()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tracks.parquet"

        def whole() -> int:
            opened = Video(video)
            return write_tracks(path, opened, find_tracks(opened, settings, workers), settings)

        ingest_s, n_tracks = timed(whole)
        crops = [track.crops for track in read_tracks(path)]
        encode_s, _ = timed(lambda: [encode_clip(clip, settings.margin, model) for clip in crops])
    report.say()
    report.say(f"{n_tracks} tracks of {sum(map(len, crops))} crops")
    report.say()
    report.say("| part | seconds | x real time |")
    report.say("|---|---|---|")
    for name, seconds in {
        "decoding every frame (FFmpeg's threads)": decode_s,
        f"decoding, {settings.fps:g} frames per second sampled": sample_s,
        "finding faces, one thread": find_s,
        f"ingest: all parts, {workers} threads, with writing files": ingest_s,
        "encoding the tracks": encode_s,
        "ingest and encoding": ingest_s + encode_s,
    }.items():
        report.say(f"| {name} | {seconds:.2f} | {length / seconds:.1f} |")
    report.say()
    speed = length / (ingest_s + encode_s)
    report.target(f"{speed:.1f} x real time, decoder to codes, aim {AIM:g}", speed >= AIM)


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
    parser.add_argument("video", type=Path)
    parser.add_argument("--long", type=Path)
    parser.add_argument("--detector", default="mtcnn")
    parser.add_argument("--page", type=Path, help="file to write the results to")
    options = parser.parse_args()
    settings = TrackSettings(detector=options.detector)
    report = Report()
    report.say("# From film to tracks and codes")
    report.say()
    report.say(
        f"{heading()}; made by `scripts/benchmarks/benchmark_ingest.py`; detector {settings.detector}, "
        f"{settings.fps:g} frames per second sampled"
    )
    report.say()
    parts(options.video, settings, report)
    if options.long is not None:
        memory(options.long, settings, report)
    if options.page is not None:
        report.write(options.page)
    report.finish()


if __name__ == "__main__":
    main()
