"""The convert command: change how an index is searched."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import BackendName, IndexFolder, IndexType, MilvusUri, Trust, check_model_options
from facereel.errors import UserError

if TYPE_CHECKING:
    from facereel.retrieval.track_index import TrackIndex


def convert_command(
    folder: IndexFolder,
    index_type: IndexType = None,
    backend: BackendName = None,
    uri: MilvusUri = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.onnx",
            help="Encode all tracks again with another encoder, from their crops: sface, dlib, or an ONNX file.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Encode all tracks again with the model in the folder of a run or model.")
    ] = None,
    codes_only: Annotated[
        bool, typer.Option("--codes-only", help="With --encoder: store only codes of faces, no features.")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Fit the codes to the tracks that the index has now.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="PREPARED",
            help="Measure how distances relate to probabilities, on a prepared data set of clips and stills of people.",
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Change how an index is searched, or encode it again. Tracks, names, groups and decisions are kept.

    Example: facereel convert --index index --index-type ivf

    Another encoder: facereel convert --index index --encoder sface

    You can stop it and run it again: it continues. Until all tracks are encoded, the index answers as before.

    Move the codes to Milvus: facereel convert --index index --backend milvus --uri http://localhost:19530
    """
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.console import console
    from facereel.system.optional import import_faiss

    change = backend_change(backend, uri, index_type)
    if change is None and not (refit or calibrate or encoder or checkpoint):
        raise UserError(
            "nothing to convert: give --encoder, --checkpoint, --index-type, --backend, --refit or --calibrate"
        )
    check_model_options(checkpoint, encoder)
    if codes_only and encoder is None and checkpoint is None:
        raise UserError("--codes-only: add --encoder or --checkpoint, since all tracks are encoded again for it")
    if uri is None:
        import_faiss()
    index = TrackIndex(folder)
    if change is not None:
        change(index)
    if encoder is not None or checkpoint is not None:
        _change_model(index, encoder, checkpoint, codes_only)
        index = TrackIndex(folder)
    if refit:
        index.refit()
    if calibrate is not None:
        _calibrate(index, calibrate)
    index.save_codes()
    place = index.backend
    how = f"in Milvus at {place['uri']}" if "uri" in place else f"with FAISS, {place['kind']}"
    console.print(f"{folder}: {len(index)} tracks, searched {how}")


def _change_model(index: TrackIndex, encoder: str | None, checkpoint: Path | None, codes_only: bool) -> None:
    from facereel.models import VideoHasher, pretrained_hasher
    from facereel.retrieval.calibration import SHIPPED
    from facereel.retrieval.change_model import change_model
    from facereel.system.console import console
    from facereel.system.progress import show_progress

    model = pretrained_hasher(encoder=encoder) if encoder is not None else VideoHasher.load(checkpoint or "")
    calibration = SHIPPED[encoder][codes_only] if encoder in SHIPPED else None
    with show_progress("encoding tracks again, tracks") as advance:
        is_new = change_model(index, model, calibration, codes_only=codes_only, advance=advance)
    if not is_new:
        console.print(f"note: {index.folder} already has this model")
    elif calibration is None:
        console.print("note: distances of this model have no calibration: measure one with --calibrate PREPARED")


def _calibrate(index: TrackIndex, prepared: Path) -> None:
    from facereel.retrieval.calibration import measure_calibration
    from facereel.system.console import console

    measured = measure_calibration(index.model(), prepared, codes_only=not index.has_features)
    index.set_calibration(measured.calibration)
    said = [f"{measured.found:.1%} of searches for people who are there find them"]
    if not math.isnan(measured.false_alarms):
        said.append(f"{measured.false_alarms:.1%} of searches for people who are not there return someone")
    console.print(
        f"calibrated on half of {measured.n_people} people. Of the other half, with {measured.n_clips} clips: "
        f"{' and '.join(said)}"
    )


def backend_change(backend: str | None, uri: str | None, index_type: str | None) -> Callable[[TrackIndex], None] | None:
    """Check the backend options, and build the function that applies them.

    Args:
        backend: "faiss" or "milvus"; None keeps the backend.
        uri: address of Milvus, or None.
        index_type: FAISS index type; None keeps it.

    Returns:
        A function that applies the options to an index; None if no option is given.

    Raises:
        UserError: if options are invalid or contradict each other, or a package is not installed.
    """
    from facereel.retrieval.backends.faiss import KINDS
    from facereel.retrieval.backends.milvus import checked_uri
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.optional import import_pymilvus

    if backend not in (None, "faiss", "milvus"):
        raise UserError(f"--backend {backend}: must be faiss or milvus")
    if index_type not in (None, *KINDS):
        raise UserError(f"--index-type {index_type}: must be one of {', '.join(KINDS)}")
    if backend == "milvus":
        if uri is None:
            raise UserError("--backend milvus needs --uri: http://localhost:19530, or a file ending in .db")
        if index_type not in (None, "flat"):
            raise UserError(f"--index-type {index_type} is for FAISS only: omit it, Milvus compares all codes")
        import_pymilvus()
        return partial(TrackIndex.set_backend, uri=checked_uri(uri))
    if uri is not None:
        raise UserError("--uri is for Milvus only: add --backend milvus")
    return None if backend is None and index_type is None else partial(TrackIndex.set_backend, kind=index_type)
