"""Features of an encoder that does not change, encoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from facereel.data import Clip, FaceSet, Still
from facereel.data.store import CropStore, open_block
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.files import held, write_beside
from facereel.models import VideoHasher
from facereel.processes import from_first, gather, own, rank, world_size

# Pictures encoded at once.
_BATCH = 64

_WAITING = "waiting for the features that another process encodes"


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
    """Encode pictures once; several processes share them, and all return all.

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
    features, have = from_first(_read, file, features, have)
    if not (wanted & ~have).any():
        return features
    # Of several runs that begin at once, as those of a table do, one encodes and the others read it.
    lock = None if file is None or rank() > 0 else file.with_name(f".{file.stem}.lock")
    with nullcontext() if lock is None else held(lock, lambda: tell(_WAITING)):
        features, have = from_first(_read, file, features, have)
        missing = (wanted & ~have).nonzero().squeeze(1)
        ids = [missing[:0]]
        for start in own(range(0, len(missing), _BATCH)):
            chunk = missing[start : start + _BATCH]
            features[chunk] = hasher.features(faces.pictures(chunk.tolist()).to(device) / 255).cpu()
            ids.append(chunk)
            advance(len(chunk) * world_size(), len(missing))
        encoded = torch.cat(ids)
        encoded, values = gather(encoded, features[encoded])
        features[encoded] = values
        if file is not None and rank() == 0 and len(missing):
            try:
                with write_beside(file) as path:
                    save_file({"features": features, "have": have | wanted}, path)
            except OSError as error:  # a folder to read only, a full disk: the next run encodes again
                tell(f"note: features are not kept for the next run: {error}")
    return features


def rows_of_split(split: Split) -> list[int]:
    """All rows that training or a search of a split may look at."""
    items: list[Clip | Still] = [*split.pretrain_only]
    for part in (split.train, split.val, split.test):
        items += [*part.clips, *part.stills]
    return [row for item in items for row in (item.rows if isinstance(item, Clip) else (item.row,))]


def _read(file: Path | None, features: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    """What a file holds, or if it holds nothing that fits what is there."""
    if file is None or not file.is_file():
        return features, have
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
    digest.update(hasher.encoder_fingerprint().encode())
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.cpu().numpy()).tobytes()
