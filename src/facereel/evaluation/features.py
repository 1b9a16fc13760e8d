"""Features of an encoder that does not change, encoded once."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from facereel.data import Clip, FaceSet, Still
from facereel.data.store import CropStore, open_block
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.files import write_beside
from facereel.models import VideoHasher

# Pictures encoded at once.
_BATCH = 64


@torch.inference_mode()
def encode_features(
    hasher: VideoHasher,
    faces: FaceSet,
    rows: Iterable[int],
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    advance: Callable[[int, int], object] = lambda done, of: None,
    tell: Callable[[str], object] = lambda note: None,
) -> Tensor:
    """Encode pictures once.

    Args:
        hasher: its encoder and what it does to a picture before are used.
        faces: holds the pictures.
        rows: which to encode.
        device: to encode on.
        folder: where features are kept for the next run: the folder of a prepared data set. None keeps nothing.
        advance: told how many more are done, of how many.
        tell: told in a line if features cannot be kept.

    Returns:
        (N, D) float32, a row for each of `faces`; zeros where it was not asked for.
    """
    hasher = hasher.to(device).eval()
    wanted = torch.zeros(len(faces.rows), dtype=torch.bool)
    wanted[torch.tensor(sorted(set(rows)), dtype=torch.int64)] = True
    features, have = torch.zeros(len(wanted), hasher.encoder.dim), torch.zeros_like(wanted)
    file = None if folder is None else folder / f"features-{_key(hasher, faces)}.safetensors"
    with _alone(file, tell):
        if file is not None and file.is_file():
            features, have = _read(file, features, have)
        missing = (wanted & ~have).nonzero().squeeze(1)
        for start in range(0, len(missing), _BATCH):
            chunk = missing[start : start + _BATCH]
            features[chunk] = hasher.features(faces.pictures(chunk.tolist()).to(device) / 255).cpu()
            advance(len(chunk), len(missing))
        if file is not None and len(missing):
            try:
                with write_beside(file) as path:
                    save_file({"features": features, "have": have | wanted}, path)
            except (
                OSError,
                SafetensorError,
            ) as error:  # a folder to read only, a full disk: encoded again
                tell(f"note: features are not kept for the next run: {error}")
    return features


def rows_of_split(split: Split) -> list[int]:
    """All rows that training or a search of a split may look at."""
    items: list[Clip | Still] = [*split.pretrain_only]
    for part in (split.train, split.val, split.test):
        items += [*part.clips, *part.stills]
    return [row for item in items for row in (item.rows if isinstance(item, Clip) else (item.row,))]


@contextmanager
def _alone(file: Path | None, tell: Callable[[str], object]) -> Iterator[None]:
    """Let one process encode what several begin with at once, as the runs of a table do; the others then read it."""
    path = None if file is None else file.with_name(f".{file.stem}.lock")
    try:
        lock = None if path is None else path.open("w")
    except OSError:  # a folder to read only: each encodes for itself
        lock = None
    if path is None or lock is None:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for the features that another process encodes")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Who still waits for it is let in, and finds the features; who comes later makes a lock of its own.
            path.unlink(missing_ok=True)


def _read(file: Path, features: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    try:
        held = open_block(file)
    except UserError:  # damaged: encoded again, and written over
        return features, have
    fits = held.keys() == {"features", "have"} and held["features"].shape == features.shape
    return (held["features"].clone(), held["have"].clone()) if fits else (features, have)


def _key(hasher: VideoHasher, faces: FaceSet) -> str:
    """A hash of what decides the features: the encoder, what is done to a picture before, and which pictures."""
    digest = hashlib.sha256()
    told = {
        "preprocess": hasher.config["preprocess"],
        "encoder": {name: value for name, value in hasher.config["encoder"].items() if name != "weights"},
        "view": [faces.grey, faces.share, faces.shift],
    }
    digest.update(json.dumps(told, sort_keys=True).encode())
    store = faces.crops if isinstance(faces.crops, CropStore) else CropStore.of(faces.crops)
    for block in store.blocks:
        # A prepared block has the hash of its rows for a name, wherever it lies; one in memory has none.
        digest.update(f"{block.parent.name}/{block.name}".encode() if isinstance(block, Path) else _bytes(block))
    digest.update(_bytes(store.block) + _bytes(store.place))
    for name, tensor in sorted(hasher.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.cpu().numpy()).tobytes()
