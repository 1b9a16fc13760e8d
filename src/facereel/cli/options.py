"""Options shared by several commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.errors import UserError
from facereel.storage.trust import trust_modules

if TYPE_CHECKING:
    import torch

Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="MODULE",
        callback=trust_modules,
        help="Trust your own module: it is imported, and models and runs may use its classes; may be repeated.",
    ),
]
IndexFolders = Annotated[
    list[Path], typer.Option("--index", help="Folder of the index; may be repeated, to search several as one.")
]
IndexFolder = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
MinTracks = Annotated[int, typer.Option(help="Skip groups with fewer tracks.", min=1)]
ContactSheet = Annotated[
    Path | None, typer.Option(help="Write the groups' thumbnails to this .jpg file, one row per group.")
]
EngineName = Annotated[
    str, typer.Option(help="Where the work runs: local, or ray (extra ray) with many processes or machines.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a Ray cluster, or auto. Default: RAY_ADDRESS, or a local Ray for this run only."),
]
DeviceName = Annotated[
    str, typer.Option(help="Device for videos and faces: cpu, cuda, or auto for a GPU if there is one.")
]
BackendName = Annotated[
    str | None,
    typer.Option(help="Search backend: faiss (in memory) or milvus (a server). Default: unchanged."),
]
MilvusUri = Annotated[
    str | None, typer.Option(help="Address of Milvus: http://localhost:19530, or a file ending in .db for milvus-lite.")
]
IndexType = Annotated[
    str | None,
    typer.Option(help="FAISS index type: flat compares all codes, ivf a part of them. See docs/how-to/scaling.md."),
]
GapSeconds = Annotated[float, typer.Option("--gap", help="Longest gap in a person's presence to close, in seconds.")]
TimelineFile = Annotated[
    Path | None,
    typer.Option(
        "--export",
        metavar="FILE",
        help="Write the intervals to a file ending in .csv, .json, .vtt, .srt, .otio, .edl or .xml.",
    ),
]


def choose_device_for(device: str, engine: str) -> "torch.device":
    """Choose the device that --device names, before anything is read.

    Args:
        device: the option --device.
        engine: the option --engine.

    Returns:
        The device.

    Raises:
        UserError: if PyTorch cannot use the device, or the workers of the engine would not.
    """
    from facereel.system.device import choose_device

    if engine != "local" and device != "cpu":
        raise UserError(f"--device {device}: workers of --engine {engine} use the CPU")
    return choose_device(device)


def check_model_options(checkpoint: Path | None, encoder: str | None) -> None:
    """Check --checkpoint and --encoder, before anything is loaded.

    Args:
        checkpoint: the option.
        encoder: the option.

    Raises:
        UserError: if both are given, or the encoder is unknown.
    """
    from facereel.models.pretrained import ENCODERS, is_known_encoder

    if checkpoint is not None and encoder is not None:
        raise UserError("--checkpoint and --encoder both name a model: use one of them")
    if encoder is not None and not is_known_encoder(encoder):
        raise UserError(f"--encoder {encoder}: must be {', '.join(ENCODERS)}, or the path of an .onnx file")
