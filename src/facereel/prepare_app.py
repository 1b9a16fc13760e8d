"""Behind the commands prepare and inspect: which reader reads what, and what is said at the end."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from facereel.console import Console
from facereel.data import FaceSet, Manifest, Row, Skipped
from facereel.data.crops import CropSettings
from facereel.data.inspect import contact_sheet_rows, counts, missing_files, split_counts, write_contact_sheet
from facereel.data.load import Loaded, is_prepared, load_rows, open_prepared
from facereel.data.parallel import n_processors
from facereel.data.prepare import prepare
from facereel.data.select import to_read
from facereel.errors import UserError
from facereel.evaluation import ClosedSet, IdentityDisjoint, LeaveOneOut
from facereel.hydra_app import compose_data
from facereel.names import look_alike_line
from facereel.progress import advancing

# Where a source is read by a configuration of another name: the group's option, and the reader in it.
SOURCES = {
    "youtube_faces": ("youtube_faces", "reader"),
    "umdfaces": ("umdfaces", "stills_reader"),
    "umdfaces_videos": ("umdfaces", "reader"),
    "youtube_celebrities": ("youtube_celebrities", "reader"),
    "folder": ("folder", "reader"),
    # PERSON/PICTURE, such as LFW, to go with the videos of another.
    "stills": ("youtube_faces", "stills_reader"),
}
PROTOCOLS = {protocol.name: protocol for protocol in (ClosedSet, IdentityDisjoint, LeaveOneOut)}

SPLIT_FILE = "split.json"

console = Console(highlight=False, soft_wrap=True, markup=False)


def run_prepare(
    source: str,
    root: Path,
    out: Path,
    *,
    stills: Path | None,
    size: int | None,
    margin: float | None,
    detector: str | None,
    n_people: int | None,
    max_frames: int | None,
    protocol: str,
    seed: int,
    workers: int | None,
    strict: bool,
) -> None:
    """Write a manifest and crops; see `facereel prepare --help`.

    Raises:
        UserError: for a mistake in the options or the data.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"--protocol {protocol}: must be one of {', '.join(PROTOCOLS)}")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"OUT {out} lies in ROOT {root}, where nothing is written: choose another folder")
    group, key = _source(source)
    if stills is not None and key == "stills_reader":
        raise UserError(f"--stills: {source} holds stills itself; they go with the videos of another source")
    data = compose_data(group, root=str(root.absolute()), stills_root=str((stills or root).absolute()))
    detector = data.detector if detector is None else None if detector == "none" else detector
    if detector not in (None, "mtcnn"):
        detector = str(Path(detector).expanduser().absolute())  # the manifest is used from other folders
    settings = CropSettings(data.size if size is None else size, data.margin if margin is None else margin, detector)
    skipped = Skipped()
    rows = _read(source, data, key, root, skipped)
    if stills is not None:
        rows = chain((row for row in rows if row.clip), instantiate(data.stills_reader, skipped=skipped))
    manifest = Manifest.from_rows(rows)
    if n_people is not None or max_frames is not None:
        limit = len(manifest) + 1 if max_frames is None else max_frames
        manifest = manifest.take(to_read(manifest, max_frames=limit, n_people=n_people, seed=seed))
    console.print(f"read {source}: {len(manifest)} pictures and frames")
    about = {
        "source": source,
        "data": group,
        "root": str(root.absolute()),
        "stills": None if stills is None else str(stills.absolute()),
        "people": n_people,
        "max_frames": max_frames,
        "protocol": protocol,
        "seed": seed,
    }

    def label(faces: FaceSet) -> dict[str, str]:
        try:
            split = PROTOCOLS[protocol]().split(faces, seed)
        except UserError as error:
            console.print(f"note: no split is drawn: {error}")
            about["protocol"] = None
            (out / SPLIT_FILE).unlink(missing_ok=True)
            return {}
        split.save(out / SPLIT_FILE)
        return split.part_of_sources()

    with advancing("finding and cutting faces", console) as advance:
        result = prepare(
            manifest,
            skipped,
            out,
            settings,
            about,
            n_workers=workers or n_processors(),
            strict=strict,
            label=label,
            advance=advance,
        )
    faces = result.loaded.face_set(max_frames=len(manifest) + 1)
    console.print(f"{out}: {faces.summary()}")
    for line in faces.lines():
        console.print(f"note: {line}")
    if not result.is_new and not result.n_made:
        console.print(f"nothing to do: {out} is as prepared before")
    else:
        console.print(f"crops: made {result.n_made} blocks, found {result.n_blocks - result.n_made} that were there")
    if faces.clips:
        console.print(f"train on it: facereel train data.manifest={out}")
    else:
        console.print(f"train with it: facereel train data.manifest=CLIPS data.stills_root={out}")


def _source(name: str) -> tuple[str, str]:
    if name in SOURCES:
        return SOURCES[name]
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        return "folder", "reader"
    hint = "; SOURCE comes before ROOT" if Path(name).exists() else ""
    raise UserError(
        f"SOURCE {name}: must be one of {', '.join(SOURCES)}, or the dotted name of a reader of your own{hint}"
    )


def _read(source: str | None, data: Any, key: str, root: Path, skipped: Skipped) -> Iterator[Row]:
    if source is None or source in SOURCES:
        rows: Iterator[Row] = instantiate(data[key], skipped=skipped)
        return rows
    module, _, name = source.rpartition(".")
    try:
        rows = iter(getattr(importlib.import_module(module), name)(root, skipped))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"SOURCE {source} is not a reader, called with a root and a Skipped: {error}") from error
    return rows


def run_inspect(path: Path, source: str | None, sheet: Path) -> None:
    """Print what a data set holds and draw its contact sheet; see `facereel inspect --help`.

    Raises:
        UserError: if the path is neither what `prepare` wrote nor a data set.
    """
    if path.name == "manifest.parquet":
        path = path.parent
    if is_prepared(path):
        loaded = open_prepared(path)
        about = loaded.about
        console.print(f"{path}: prepared from {about['source']} in {about['root']}")
        settings = ", ".join(f"{name} {value}" for name, value in about["settings"].items())
        _print({"crops": f"{settings}, in {path / about['crops']}", **counts(loaded.manifest)})
        _print({f"split {name}": text for name, text in split_counts(loaded.manifest).items()})
        if about["protocol"] is not None:
            _print({"split drawn by": f"protocol={about['protocol']}, seed {about['seed']}"})
        notes = loaded.face_set(max_frames=len(loaded.manifest) + 1).lines()
    else:
        loaded = _look(path, source)
        notes = loaded.skipped.lines()
    n_missing, examples = missing_files(loaded.manifest)
    if n_missing:
        notes.append(f"{n_missing} x file that is not there any more ({', '.join(examples)})")
    for line in notes:
        console.print(f"note: {line}")
    write_contact_sheet(loaded, sheet)
    console.print(f"contact sheet: {sheet}")


def _look(root: Path, source: str | None) -> Loaded:
    """Count a data set as it lies, and cut the faces of its contact sheet."""
    group, key = _source(source) if source else _guess(root)
    data = compose_data(group, root=str(root.absolute()), stills_root=str(root.absolute()))
    skipped = Skipped()
    manifest = Manifest.from_rows(_read(source, data, key, root, skipped))
    console.print(f"{root}: {group}, as it lies")
    _print(counts(manifest))
    if alike := look_alike_line(manifest.names("person")[0]):
        console.print(f"note: {alike}")
    shown = manifest.take(np.array([row for line in contact_sheet_rows(manifest) for row in line], np.int64))
    settings = {name: data[name] for name in ("size", "margin", "detector")}
    loaded = load_rows(shown, skipped, {"max_frames": len(manifest) + 1}, **settings)
    return loaded


def _guess(root: Path) -> tuple[str, str]:
    """The layout of a folder, by what stands in it."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    names = {entry.name for entry in root.iterdir()}
    if names & {"frame_images_DB", "aligned_images_DB"} or any(name.endswith(".labeled_faces.txt") for name in names):
        return SOURCES["youtube_faces"]
    if any(name.startswith("umdfaces_batch") for name in names):
        return SOURCES["umdfaces"]
    if any(name.startswith("umdfaces_videos") for name in names):
        return SOURCES["umdfaces_videos"]
    if any(name.endswith(".avi") for name in names):
        return SOURCES["youtube_celebrities"]
    if "clips" in names:
        return SOURCES["folder"]
    return "folder", "stills_reader"


def _print(lines: dict[str, str]) -> None:
    for name, text in lines.items():
        console.print(f"{name:<21} {text}")
