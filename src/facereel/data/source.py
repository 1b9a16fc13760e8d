"""Read the data set of a `data` group: prepared crops, or an original data set."""

import math
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from facereel.data.crop_table import MANIFEST_FILE, CropTable, is_prepared, load_rows, open_prepared, without_images
from facereel.data.crops import CropSettings
from facereel.data.face_set import FaceSet
from facereel.data.manifest import Manifest, Row
from facereel.errors import UserError
from facereel.parallel.pool import n_processors
from facereel.system.progress import show_progress
from facereel.system.skipped import Skipped


def read_faces(
    data: DictConfig, seed: int, preprocess: Any, check: Callable[[FaceSet], object] | None = None
) -> FaceSet:
    """Read a data set for a model.

    Args:
        data: options of a `data` group; its readers are built here.
        seed: random seed for the choice of people and frames.
        preprocess: object with the size, margin and vertical offset of the crops that the model takes, such as
            `Preprocess`. The crops that are read may be wider.
        check: called with the data set before images are read, if reading takes long, assuming that all images are
            usable. It raises a `UserError` if the data set cannot be used.

    Returns:
        The data set, people sorted by name.

    Raises:
        UserError: if the data set is missing or empty, or its crops are too small or too narrow.
    """
    chosen = {"max_frames": data.max_frames, "frames": data.frames, "seed": seed}
    n_people = data.n_people
    stills_prepared = data.stills_root is not None and is_prepared(data.stills_root)
    read_stills = data.stills_root is not None and not stills_prepared
    skipped = Skipped()
    if data.manifest is not None:
        crops = _open_manifest(data, preprocess)
        if read_stills:
            stills = instantiate(data.stills_reader, skipped=skipped)
            crops = crops.with_stills(_crop(stills, skipped, {}, **crops.about["settings"]))
    else:
        # People are chosen once: before faces are cropped, or after prepared stills are added.
        before, n_people = (None, n_people) if stills_prepared else (n_people, None)
        settings = {name: data[name] for name in ("size", "margin", "detector")}
        rows = Manifest.from_rows(_read_rows(data, read_stills, skipped))
        if check is not None and len(rows) and not stills_prepared:
            check(without_images(rows, skipped).face_set(**chosen, n_people=before))
        crops = _crop(rows, skipped, {**chosen, "n_people": before}, **settings)
    if stills_prepared:
        crops = crops.with_stills(open_prepared(data.stills_root))
    return crops.face_set(
        note=data.note,
        n_people=n_people,
        grayscale=data.grayscale,
        margin=preprocess.margin,
        vertical_offset=preprocess.vertical_offset,
        **chosen,
    )


def prepared_folder(data: DictConfig) -> Path | None:
    """Return the folder of prepared crops in a `data` group, or None."""
    if data.manifest is None:
        return None
    manifest = Path(data.manifest).expanduser()
    return manifest.parent if manifest.name == MANIFEST_FILE else manifest


def _open_manifest(data: DictConfig, preprocess: Any) -> CropTable:
    crops = open_prepared(data.manifest)
    wider = max(1.0, data.margin / preprocess.margin)
    needed = math.ceil(preprocess.size * wider - 1e-6)  # rounding must not add a pixel
    if round(crops.crops.size / wider) < preprocess.size:
        raise UserError(
            f"data.manifest={data.manifest} has crops of {crops.crops.size} pixels, fewer than the {needed} that the "
            f"model takes: prepare it with a size of {needed}"
        )
    if data.crops not in (None, crops.about["crops"]):
        raise UserError(
            f"data.manifest={data.manifest} was prepared again with other settings: it has {crops.about['crops']}, not "
            f"{data.crops}. Prepare it as before, or set data.crops=null"
        )
    return crops


def _read_rows(data: DictConfig, read_stills: bool, skipped: Skipped) -> Iterable[Row]:
    if "root" in data.reader and data.reader.root is None:
        raise UserError(f"data={data.name} needs data.root=DIR, the folder of the data set, or data.manifest=DIR")
    rows: Iterable[Row] = instantiate(data.reader, skipped=skipped)
    if data.stills_root is None:
        return rows
    clips = (row for row in rows if row.clip)
    return chain(clips, instantiate(data.stills_reader, skipped=skipped)) if read_stills else clips


def _crop(rows: Iterable[Row], skipped: Skipped, chosen: dict[str, Any], **settings: Any) -> CropTable:
    with show_progress("finding and cropping faces" if settings["detector"] else "reading images") as advance:
        return load_rows(rows, skipped, CropSettings(**settings), chosen, n_workers=n_processors(), advance=advance)
