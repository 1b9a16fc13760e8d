"""Data sets by name, for the commands prepare and inspect."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facereel.errors import UserError

if TYPE_CHECKING:
    from facereel.data import Row, Skipped

# Option of the config group `data`, and key of the reader in it.
SOURCES = {
    "youtube_faces": ("youtube_faces", "reader"),
    "umdfaces": ("umdfaces", "stills_reader"),
    "umdfaces_videos": ("umdfaces", "reader"),
    "youtube_celebrities": ("youtube_celebrities", "reader"),
    "ijb": ("ijb", "reader"),
    "lfw": ("lfw", "reader"),
    "folder": ("folder", "reader"),
    # PERSON/IMAGE, such as LFW, for use with the videos of another data set.
    "stills": ("youtube_faces", "stills_reader"),
}

# Files by which a data set is recognized, tried in this order.
_SIGNS = {
    "frame_images_DB": "youtube_faces",
    "aligned_images_DB": "youtube_faces",
    "*.labeled_faces.txt": "youtube_faces",
    "umdfaces_batch*": "umdfaces",
    "umdfaces_videos*": "umdfaces_videos",
    "*.avi": "youtube_celebrities",
    "meta/ijb?_face_tid_mid.txt": "ijb",
    "protocol*/ijb?_1N_probe_mixed.csv": "ijb",
    "clips": "folder",
}


def find_source(name: str) -> tuple[str, str]:
    """Return the option of `data` and the key of the reader for a source.

    Args:
        name: a key of `SOURCES`, or the dotted name of a reader.

    Raises:
        UserError: if the name is neither.
    """
    if name in SOURCES:
        return SOURCES[name]
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        return "folder", "reader"
    hint = "; SOURCE comes before ROOT" if Path(name).exists() else ""
    raise UserError(f"SOURCE {name}: must be one of {', '.join(SOURCES)}, or the dotted name of your own reader{hint}")


def guess_source(root: Path) -> tuple[str, str]:
    """Return the option of `data` and the key of the reader, guessed from the file names in a data set's folder.

    Args:
        root: folder of the data set.

    Raises:
        UserError: if the folder does not exist.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    for pattern, source in _SIGNS.items():
        if any(root.glob(pattern)):
            return SOURCES[source]
    return "folder", "stills_reader"


def read_rows(source: str | None, data: Any, key: str, root: Path, skipped: Skipped) -> Iterator[Row]:
    """Read a data set.

    Args:
        source: the argument of `find_source`; None if the source was guessed.
        data: the configured option of `data`.
        key: key of the reader in `data`.
        root: folder of the data set, for a reader given by its dotted name.
        skipped: counts the items that cannot be read.

    Returns:
        The rows, read lazily.

    Raises:
        UserError: if `source` is not a reader.
    """
    from hydra.utils import instantiate

    if source is None or source in SOURCES:
        rows: Iterator[Row] = instantiate(data[key], skipped=skipped)
        return rows
    module, _, name = source.rpartition(".")
    try:
        return iter(getattr(importlib.import_module(module), name)(root, skipped))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"SOURCE {source} cannot be called as a reader, with a root and a Skipped: {error}") from error
