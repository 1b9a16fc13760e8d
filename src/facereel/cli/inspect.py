"""The inspect command: summarize a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.sources import find_source, guess_source, read_rows
from facereel.system.console import console

if TYPE_CHECKING:
    from facereel.data.crop_table import CropTable


def inspect_command(
    path: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_ROOT", help="Folder that prepare wrote, or a data set.")],
    source: Annotated[
        str | None, typer.Option(help="Source, as for prepare; by default guessed from the files.")
    ] = None,
    contact_sheet: Annotated[Path, typer.Option(help="Image file for the contact sheet.")] = Path("contact_sheet.jpg"),
) -> None:
    """Count people, clips, frames, stills, splits and missing files, and draw a contact sheet of the faces.

    Example: facereel inspect /data/prepared/ytf --contact-sheet sheet.jpg
    """
    from facereel.data.crop_table import is_prepared
    from facereel.data.inspect import missing_files, write_contact_sheet

    if path.name == "manifest.parquet":
        path = path.parent
    if is_prepared(path):
        table, notes = _inspect_prepared(path)
    else:
        table = _inspect_source(path, source)
        notes = table.skipped.lines()
    n_missing, examples = missing_files(table.manifest)
    if n_missing:
        notes.append(f"{n_missing} x missing file ({', '.join(examples)})")
    for line in notes:
        console.print(f"note: {line}")
    write_contact_sheet(table, contact_sheet)
    console.print(f"contact sheet: {contact_sheet}")


def _inspect_prepared(path: Path) -> tuple[CropTable, list[str]]:
    """Return the table of a prepared folder with notes on it; print a summary."""
    from facereel.data.crop_table import open_prepared
    from facereel.data.inspect import counts, split_counts

    table = open_prepared(path)
    about = table.about
    console.print(f"{path}: prepared from {about['source']} in {about['root']}")
    settings = ", ".join(f"{name} {value}" for name, value in about["settings"].items())
    _print({"crops": f"{settings}, in {path / about['crops']}", **counts(table.manifest)})
    _print({f"split {name}": text for name, text in split_counts(table.manifest).items()})
    if about["protocol"] is not None:
        _print({"split drawn by": f"protocol={about['protocol']}, seed {about['seed']}"})
    return table, table.face_set(max_frames=len(table.manifest) + 1).lines()


def _inspect_source(root: Path, source: str | None) -> CropTable:
    """Return the crops for the contact sheet of a data set; print a summary."""
    import numpy as np

    from facereel.config.compose import compose_data
    from facereel.data import Manifest, Skipped
    from facereel.data.crop_table import load_rows
    from facereel.data.crops import CropSettings
    from facereel.data.inspect import contact_sheet_rows, counts
    from facereel.data.person_names import look_alike_line

    group, key = find_source(source) if source else guess_source(root)
    data = compose_data(group, root=str(root.absolute()), stills_root=str(root.absolute()))
    skipped = Skipped()
    manifest = Manifest.from_rows(read_rows(source, data, key, root, skipped))
    console.print(f"{root}: {group}, not prepared")
    _print(counts(manifest))
    if similar := look_alike_line(manifest.names("person")[0]):
        console.print(f"note: {similar}")
    shown = manifest.take(np.array([row for line in contact_sheet_rows(manifest) for row in line], np.int64))
    settings = {name: data[name] for name in ("size", "margin", "detector")}
    return load_rows(shown, skipped, CropSettings(**settings), {"max_frames": len(manifest) + 1})


def _print(lines: dict[str, str]) -> None:
    for name, text in lines.items():
        console.print(f"{name:<21} {text}")
