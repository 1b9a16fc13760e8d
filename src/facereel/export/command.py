"""The export command."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from facereel.console import Console
from facereel.data import FaceSet, Skipped, load_faces, open_prepared, read_orl
from facereel.errors import UserError
from facereel.export.card import known_of, write_card
from facereel.export.to_onnx import Parity, check_parity, export_part, obstacle, parts_of
from facereel.files import sha256_of
from facereel.models import VideoHasher
from facereel.models.hasher import SUMS_FILE
from facereel.optional import import_onnx

console = Console(highlight=False, soft_wrap=True, markup=False)


def run_export(checkpoint: Path, out: Path, *, licence: str | None, faces: Path | None, onnx: bool) -> None:
    """Write a model's folder; see `facereel export --help`. It appears whole or not at all.

    Raises:
        UserError: if `out` exists, the checkpoint is none, ONNX comes to other codes, or an extra is missing.
    """
    if out.exists():
        raise UserError(f"--out {out} exists: choose another folder")
    if licence is not None and not re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", licence):
        raise UserError(f"--license {licence!a}: must be an identifier such as cc-by-nc-4.0, or a few words")
    if onnx:
        import_onnx()  # so that its absence shows before anything is computed
    model = VideoHasher.load(checkpoint)
    known = known_of(checkpoint, model)
    name, shown = _faces(faces, model) if onnx else ("", None)
    files: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    absent: dict[str, str] = {} if onnx else {"model": "--no-onnx was given"}
    for part, what in (parts_of(model) if onnx else {}).items():
        try:
            if why := obstacle(model, part):
                raise UserError(why)
            files[part] = export_part(what, {"facereel": model.fingerprint(), "part": part})
            inputs = ", ".join(f"{key} {_shape(example.shape, free)}" for key, (example, free) in what.inputs.items())
            texts[part] = f"{inputs} -> {what.output}"
        except UserError as error:
            absent[part] = str(error)
            console.print(f"note: {part} cannot be exported to ONNX: {error}")
    parity: Parity | None = check_parity(model, files, shown, name) if files and shown is not None else None
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        model.save(beside)
        for part, content in files.items():
            (beside / "onnx").mkdir(exist_ok=True)
            (beside / "onnx" / f"{part}.onnx").write_bytes(content)
        card = write_card(model, known, licence, texts, absent, parity)
        (beside / "README.md").write_text(card, encoding="utf-8")
        (beside / SUMS_FILE).write_text(_sums(beside), encoding="utf-8")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if parity is not None:
        for part, difference in parity.differences.items():
            console.print(f"{part}.onnx: differs from PyTorch by {difference:.2g} at most")
        bits = ", ".join(f"{100 * share:.4f} % of the bits of {kind}" for kind, share in parity.equal_bits.items())
        console.print(f"equal on {parity.n_stills} pictures and {parity.n_clips} clips of {name}: {bits}")
    console.print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if licence is None:
        console.print("note: the card calls the weights' licence unknown; --license says it")


def _faces(prepared: Path | None, model: VideoHasher) -> tuple[str, FaceSet]:
    """Real faces to compare on, and their name."""
    takes = model.preprocess
    if prepared is not None:
        loaded = open_prepared(prepared)
        return str(loaded.about.get("source", prepared.name)), loaded.face_set(margin=takes.margin, shift=takes.shift)
    skipped = Skipped()
    return "ORL", load_faces(read_orl(skipped), skipped, size=takes.size)


def _shape(shape: tuple[int, ...], free: tuple[str, ...]) -> str:
    return f"({', '.join([*free, *map(str, shape[len(free) :])])})"


def _sums(folder: Path) -> str:
    """Lines as sha256sum writes and checks them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
