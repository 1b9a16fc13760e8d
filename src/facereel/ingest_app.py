"""Behind the command ingest: what is said on the way and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facereel.console import Console, count, some
from facereel.data.parallel import n_processors
from facereel.engine import Engine, local
from facereel.errors import UserError
from facereel.progress import advancing
from facereel.skipped import Skipped
from facereel.video.detector import make_detector
from facereel.video.find_tracks import TrackSettings
from facereel.video.find_videos import find_videos
from facereel.video.ingest import Ingested, ingest

console = Console(highlight=False, soft_wrap=True, markup=False)


def run_ingest(
    paths: Sequence[Path], out: Path, settings: TrackSettings, workers: int | None, engine: Engine = local
) -> None:
    """Find tracks and write them; see `facereel ingest --help`.

    Raises:
        UserError: if there is no video, none can be read, or the disk is full.
    """
    make_detector(settings.detector)  # so that a mistake shows before videos are read
    skipped = Skipped()
    videos = find_videos(paths, skipped)
    passed_over = [f"passed over {line}" for line in skipped.lines()]
    if not videos:
        raise UserError("; ".join([f"there is no video in {', '.join(map(str, paths))}", *passed_over]))
    with advancing(f"finding faces in {len(videos)} videos, MB", console) as advance:
        # Elsewhere a worker does a video by itself, so that what `workers` counts are videos at a time.
        n_threads = workers or n_processors() if engine is local else 1
        done = ingest(videos, out, settings, n_threads, advance, engine)
    for video, n_tracks in done.made.items():
        console.print(f"{video}: {count(n_tracks, 'track')}")
    for video, how_far in done.cut_short.items():
        console.print(f"note: {video} is cut short: {how_far}; the tracks up to there are kept")
    for video, why in done.doubtful.items():
        console.print(f"note: faces may be missing from {video}: {why}")
    console.print_notes(passed_over)
    _print_notes(done)
    for video in done.busy:
        console.print(f"note: {video} is left to another process that is at it")
    for video, why in done.bad.items():
        console.print(f"bad: {video}: {why}")
    n_good = len(done.made) + done.found
    console.print(
        f"{out}: {n_good} of {len(videos)} videos; {len(done.made)} done now with {sum(done.made.values())} tracks, "
        f"{done.found} before, {len(done.bad)} that cannot be read"
    )
    if done.bad and not n_good and not done.busy:
        raise UserError(f"none of {len(done.bad)} files can be read as a video")
    console.print(f"make an index of it: facereel index {out} --out INDEX")


def _print_notes(done: Ingested) -> None:
    moved, copies = done.carried.moved.items(), done.carried.copies.items()
    console.print_notes(f"{video} was {before} before: its tracks are kept" for video, before in moved)
    console.print_notes(f"{video} has the same content as {other}: it has the same tracks" for video, other in copies)
    if done.gone:
        console.print(f"note: kept the tracks of {count(len(done.gone), 'absent video')} ({some(done.gone)})")
