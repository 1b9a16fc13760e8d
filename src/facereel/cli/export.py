"""The export command: write a model for use elsewhere."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import Trust
from facereel.errors import UserError
from facereel.system.console import console

if TYPE_CHECKING:
    from facereel.data import FaceSet
    from facereel.export.to_onnx import Parity
    from facereel.models import VideoHasher


@dataclass
class OnnxExport:
    """ONNX files of a model's parts, and their description for the model card. The keys are parts."""

    files: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    """Inputs and output with their shapes."""
    absent: dict[str, str] = field(default_factory=dict)
    """The reason why a part has no file."""
    parity: Parity | None = None


def export_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a run or model, or a checkpoint file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    license: Annotated[str | None, typer.Option(help="License of the weights, such as cc-by-nc-4.0.")] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Folder that prepare wrote, for the comparison; ORL by default.")
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write ONNX files, and compare them with PyTorch on real faces.")] = True,
    trust: Trust = None,
) -> None:
    """Export a model: safetensors, JSON, ONNX files of its parts, and a model card.

    Example: facereel export runs/dhh48 --out dhh48 --license cc-by-nc-4.0
    """
    from facereel.export.card import read_model_info, write_card
    from facereel.models import VideoHasher
    from facereel.models.hasher import SUMS_FILE
    from facereel.system.optional import import_onnx

    if out.exists():
        raise UserError(f"--out {out} already exists: choose another folder")
    if license is not None and not re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", license):
        raise UserError(f"--license {license!a}: must be an identifier such as cc-by-nc-4.0, or a few words")
    if onnx:
        import_onnx()  # fails here, before anything is computed
    model = VideoHasher.load(checkpoint)
    info = read_model_info(checkpoint, model)
    exported = _export_onnx(model, faces) if onnx else OnnxExport(absent={"model": "--no-onnx was given"})
    card = write_card(model, info, license, exported.signatures, exported.absent, exported.parity)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        model.save(unfinished)
        for part, content in exported.files.items():
            (unfinished / "onnx").mkdir(exist_ok=True)
            (unfinished / "onnx" / f"{part}.onnx").write_bytes(content)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        (unfinished / SUMS_FILE).write_text(_sha256_sums(unfinished), encoding="utf-8")
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    console.print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if license is None:
        console.print("note: the model card gives the license of the weights as unknown; set it with --license")


def _export_onnx(model: VideoHasher, prepared: Path | None) -> OnnxExport:
    """Return ONNX files of the parts that ONNX can express, compared with PyTorch on real faces."""
    from facereel.export.to_onnx import check_parity, export_part, obstacle, parts_of

    name, faces = _faces(prepared, model)
    exported = OnnxExport()
    for part, what in parts_of(model).items():
        try:
            if why := obstacle(model, part):
                raise UserError(why)
            exported.files[part] = export_part(what, {"facereel": model.fingerprint(), "part": part})
        except UserError as error:
            exported.absent[part] = str(error)
            console.print(f"note: {part} cannot be exported to ONNX: {error}")
        else:
            inputs = (f"{key} {_shape(example.shape, free)}" for key, (example, free) in what.inputs.items())
            exported.signatures[part] = f"{', '.join(inputs)} -> {what.output}"
    if exported.files:
        exported.parity = parity = check_parity(model, exported.files, faces, name)
        for part, difference in parity.differences.items():
            console.print(f"{part}.onnx: the largest difference from PyTorch is {difference:.2g}")
        bits = ", ".join(f"{100 * equal:.4f} % of the bits of {kind}" for kind, equal in parity.equal_bits.items())
        console.print(f"equal to PyTorch on {parity.n_stills} images and {parity.n_clips} clips of {name}: {bits}")
    return exported


def _faces(prepared: Path | None, model: VideoHasher) -> tuple[str, FaceSet]:
    """Return the name and the faces of a data set."""
    from facereel.data import Skipped, load_faces, open_prepared, read_orl

    preprocess = model.preprocess
    if prepared is None:
        skipped = Skipped()
        return "ORL", load_faces(read_orl(skipped), skipped, size=preprocess.size)
    table = open_prepared(prepared)
    faces = table.face_set(margin=preprocess.margin, vertical_offset=preprocess.vertical_offset)
    return str(table.about.get("source", prepared.name)), faces


def _shape(shape: tuple[int, ...], free: tuple[str, ...]) -> str:
    return f"({', '.join([*free, *map(str, shape[len(free) :])])})"


def _sha256_sums(folder: Path) -> str:
    """Return checksums of all files in the format of sha256sum."""
    from facereel.storage.files import sha256_of

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
