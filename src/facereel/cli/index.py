"""The index command: encode tracks into an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.convert import backend_change
from facereel.cli.options import BackendName, EngineName, IndexType, MilvusUri, RayAddress, Trust
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import first_few, plural

if TYPE_CHECKING:
    from facereel.retrieval.build_index import IndexReport


def index_command(
    source: Annotated[Path, typer.Argument(metavar="TRACKS_OR_MANIFEST", help="Folder that ingest or prepare wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the index. An existing index is extended.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run or model. Default: the model of the existing index, or for a new one dlib's network "
            "and a fixed rotation to 256 bits."
        ),
    ] = None,
    backend: BackendName = None,
    uri: MilvusUri = None,
    index_type: IndexType = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of Ray workers; one per processor by default.", min=1)
    ] = None,
    codes_only: Annotated[
        bool,
        typer.Option(
            "--codes-only", help="Store only codes of faces in a new index, no features: smaller, but less accurate."
        ),
    ] = False,
    trust: Trust = None,
) -> None:
    """Encode tracks into an index that can be searched by face.

    You can stop it and run it again: it continues, and encodes only new or changed videos.

    Example: facereel index tracks --out index

    A moved or renamed video keeps its tracks and names: run ingest on its new location, then index again.
    """
    from facereel.models import VideoHasher, default_encoder, pretrained_hasher
    from facereel.parallel.executor import make_engine
    from facereel.retrieval.build_index import IndexOptions, index_source
    from facereel.retrieval.calibration import SHIPPED
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.optional import import_faiss
    from facereel.system.progress import show_progress

    if workers and engine == "local":
        raise UserError("--workers: index uses it with Ray only: add --engine ray")
    chosen_engine = make_engine(engine, ray_address, workers)
    change = backend_change(backend, uri, index_type)
    if uri is None:
        import_faiss()  # fails here, before anything is encoded
    encoder = default_encoder()
    if checkpoint is not None:
        model = VideoHasher.load(checkpoint)
    else:
        model = TrackIndex(out).model() if TrackIndex.is_in(out) else pretrained_hasher(encoder=encoder)
    calibration = SHIPPED[encoder][codes_only] if checkpoint is None else None
    with show_progress("encoding tracks, videos") as advance:
        options = IndexOptions(calibration, change or (lambda index: None), codes_only=codes_only)
        report = index_source(source, out, model, options, advance=advance, engine=chosen_engine)
    _print(report, out)


def _print(report: IndexReport, out: Path) -> None:
    from facereel.retrieval.moved_videos import absent_videos

    index = report.index
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
    if absent := absent_videos(index):
        console.print(
            f"note: the index has {plural(len(absent), 'absent video')} ({first_few(absent)}): connect their drive, "
            f"run ingest on the new location of moved videos, or erase them: facereel erase --absent --index {out}"
        )
    console.print(
        f"{out}: {len(index)} tracks of {len(index.videos())} videos, codes of {index.n_bits} bits; "
        f"added {report.n_videos} videos with {report.n_tracks} tracks, {report.n_before} already indexed"
    )
    console.print(f"search it: facereel search PHOTO --index {out}")
