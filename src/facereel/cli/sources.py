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

# The option of the config group `data`, and the key of the reader in it.
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
    """Return the option of `data` and the reader's key of a source, which may be the dotted name of a reader.

    Raises:
        UserError: if it is neither a known source nor a dotted name.
    """
    if name in SOURCES:
        return SOURCES[name]
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        return "folder", "reader"
    hint = "; SOURCE comes before ROOT" if Path(name).exists() else ""
    raise UserError(
        f"SOURCE {name}: must be one of {', '.join(SOURCES)}, or the dotted name of a reader of your own{hint}"
    )


def guess_source(root: Path) -> tuple[str, str]:
    """Return what `find_source` would, by the names of the files in a data set's folder.

    Raises:
        UserError: if there is no such folder.
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
        source: as given to `find_source`; None if it was guessed.
        data: the configured option of `data`.
        key: of the reader in it.
        root: folder of the data set, for a reader that is named by `source`.
        skipped: counts what cannot be read.

    Raises:
        UserError: if `source` is no reader.
    """
    from hydra.utils import instantiate

    if source is None or source in SOURCES:
        rows: Iterator[Row] = instantiate(data[key], skipped=skipped)
        return rows
    module, _, name = source.rpartition(".")
    try:
        return iter(getattr(importlib.import_module(module), name)(root, skipped))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"SOURCE {source} is not a reader, called with a root and a Skipped: {error}") from error
