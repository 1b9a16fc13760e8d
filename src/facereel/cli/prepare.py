"""The prepare command: crop the faces of a data set into a cache."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facereel.cli.sources import find_source, read_rows
from facereel.errors import UserError
from facereel.system.console import console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from facereel.data import FaceSet, Manifest, Row
    from facereel.data.crops import CropSettings
    from facereel.data.prepare import PrepareResult

SPLIT_FILE = "split.json"


def prepare_command(
    source: Annotated[
        str,
        typer.Argument(
            help="youtube_faces, umdfaces (stills), umdfaces_videos, youtube_celebrities, lfw, ijb, folder, "
            "stills (PERSON/IMAGE), or the dotted name of your own reader."
        ),
    ],
    root: Annotated[Path, typer.Argument(help="Folder of the data set; it is only read.")],
    out: Annotated[Path, typer.Argument(help="Folder for the manifest and the crops.")],
    stills: Annotated[Path | None, typer.Option(help="Folder of stills, PERSON/IMAGE, instead of ROOT's.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a crop in pixels; 64 by default.")] = None,
    margin: Annotated[float | None, typer.Option(help="Crop side over face side; 1.2 by default.")] = None,
    detector: Annotated[
        str | None, typer.Option(help="mtcnn (the default), yunet, the path of another YuNet ONNX file, or none.")
    ] = None,
    people: Annotated[int | None, typer.Option(help="Keep the N people with the most source videos.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Keep at most N frames per clip, evenly spaced.")] = None,
    protocol: Annotated[
        str, typer.Option(help="Protocol of the split: closed_set, identity_disjoint or leave_one_out.")
    ] = "closed_set",
    seed: Annotated[int, typer.Option(help="Random seed for the split.", min=0)] = 0,
    workers: Annotated[int | None, typer.Option(help="Number of processes; one per processor by default.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if any item of the data is invalid.")] = False,
) -> None:
    """Detect, align and crop the faces of a data set into a cache that training maps into memory.

    You can stop it and run it again: it continues, and does nothing if all is up to date.

    Example: facereel prepare youtube_faces /data/YTF /data/prepared/ytf --stills /data/LFW
    """
    from facereel.config.compose import compose_data
    from facereel.data import Skipped
    from facereel.data.prepare import PrepareOptions, prepare
    from facereel.parallel.pool import n_processors
    from facereel.system.progress import show_progress

    if protocol not in _protocols():
        raise UserError(f"--protocol {protocol}: must be one of {', '.join(_protocols())}")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"OUT {out} is inside ROOT {root}, which is only read: choose another folder")
    group, reader = find_source(source)
    if stills is not None and reader == "stills_reader":
        raise UserError(f"--stills: {source} contains stills itself; use it with the videos of another source")
    data = compose_data(group, root=str(root.absolute()), stills_root=str((stills or root).absolute()))
    settings = _crop_settings(data, size, margin, detector)
    skipped = Skipped()
    rows = read_rows(source, data, reader, root, skipped)
    if stills is not None:
        rows = chain((row for row in rows if row.clip), read_rows(None, data, "stills_reader", root, skipped))
    manifest = _select(rows, people, max_frames, seed)
    console.print(f"read {source}: {len(manifest)} images and frames")
    about = {
        "source": source,
        "data": group,
        "root": data.root,
        "stills": None if stills is None else data.stills_root,
        "people": people,
        "max_frames": max_frames,
        "protocol": protocol,
        "seed": seed,
    }
    with show_progress("finding and cropping faces") as advance:
        result = prepare(
            manifest,
            skipped,
            out,
            PrepareOptions(settings, workers or n_processors(), strict),
            about,
            label=partial(_draw_split, about=about, out=out),
            advance=advance,
        )
    _print(result, len(manifest), out)


def _protocols() -> dict[str, Any]:
    from facereel.evaluation import ClosedSet, IdentityDisjoint, LeaveOneOut

    return {protocol.name: protocol for protocol in (ClosedSet, IdentityDisjoint, LeaveOneOut)}


def _crop_settings(data: Any, size: int | None, margin: float | None, detector: str | None) -> CropSettings:
    """Return the crop settings; those not given default to the data set's."""
    from facereel.data.crops import CropSettings
    from facereel.video.detector import DETECTORS

    name = data.detector if detector is None else detector
    if name not in (None, "none", *DETECTORS):
        name = str(Path(name).expanduser().absolute())  # the manifest may be used from another folder
    return CropSettings(
        data.size if size is None else size,
        data.margin if margin is None else margin,
        None if name == "none" else name,
    )


def _select(rows: Iterable[Row], n_people: int | None, max_frames: int | None, seed: int) -> Manifest:
    from facereel.data import Manifest
    from facereel.data.select import to_read

    manifest = Manifest.from_rows(rows)
    if n_people is None and max_frames is None:
        return manifest
    limit = len(manifest) + 1 if max_frames is None else max_frames
    return manifest.take(to_read(manifest, max_frames=limit, n_people=n_people, seed=seed))


def _draw_split(faces: FaceSet, *, about: dict[str, Any], out: Path) -> dict[str, str]:
    """Return the part of each source, and save the split as OUT/split.json; record in `about` if it fails."""
    try:
        split = _protocols()[about["protocol"]]().split(faces, about["seed"])
    except UserError as error:
        console.print(f"note: no split is drawn: {error}")
        about["protocol"] = None
        (out / SPLIT_FILE).unlink(missing_ok=True)
        return {}
    split.save(out / SPLIT_FILE)
    parts: dict[str, str] = split.part_of_sources()
    return parts


def _print(result: PrepareResult, n_rows: int, out: Path) -> None:
    faces = result.loaded.face_set(max_frames=n_rows + 1)
    console.print(f"{out}: {faces.summary()}")
    for line in faces.lines():
        console.print(f"note: {line}")
    if not result.is_new and not result.n_made:
        console.print(f"nothing to do: {out} is up to date")
    else:
        console.print(f"crops: wrote {result.n_made} blocks, reused {result.n_blocks - result.n_made}")
    if faces.clips:
        console.print(f"train on it: facereel train data.manifest={out}")
    else:
        console.print(f"train with it: facereel train data.manifest=CLIPS data.stills_root={out}")
