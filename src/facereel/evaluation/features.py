"""Features of a frozen encoder, which are computed once and stored."""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from facereel.data import FaceSet
from facereel.data.crop_store import CropStore, open_block
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.models import VideoHasher
from facereel.parallel.distributed import gather, rank, run_on_rank_zero, shard, world_size
from facereel.storage.files import atomic_write, file_lock
from facereel.system.console import console
from facereel.system.progress import show_progress

# Number of images encoded at once.
_BATCH = 64

_WAITING = "waiting for another process to encode the features"


def split_features(
    hasher: VideoHasher, faces: FaceSet, split: Split, device: torch.device | str, folder: Path | None
) -> FaceSet:
    """Replace the images of a data set by features, for all images of a split; see `encode_features`.

    Args:
        hasher: model with the encoder.
        faces: the data set.
        split: split of the data set.
        device: device to encode on.
        folder: folder of a prepared data set, in which features are stored; None does not store them.

    Returns:
        The data set with features instead of images.
    """
    with show_progress("encoding images once") as advance:
        features = encode_features(hasher, faces, rows_of_split(split), device, folder, advance, console.print)
    return faces.with_features(features)


@torch.inference_mode()
def encode_features(
    hasher: VideoHasher,
    faces: FaceSet,
    rows: Iterable[int],
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    advance: Callable[[int, int], object] = lambda done, of: None,
    report: Callable[[str], object] = lambda note: None,
) -> Tensor:
    """Encode images once. Several processes share the images, and each returns all features.

    Args:
        hasher: model with the preprocessing and the encoder.
        faces: the data set, which has the images.
        rows: indices of the images to encode.
        device: device to encode on.
        folder: folder of a prepared data set, in which features are stored for the next run; None does not store them.
        advance: called with the number of images encoded since the last call, and their total.
        report: called with a note if features cannot be stored.

    Returns:
        (N, D) float32, one row per image of `faces`; zeros for images that are not in `rows`.
    """
    hasher = hasher.to(device).eval().prepare_inference()
    wanted = torch.zeros(len(faces.rows), dtype=torch.bool)
    wanted[torch.tensor(sorted(set(rows)), dtype=torch.int64)] = True
    features, have = torch.zeros(len(wanted), hasher.encoder.dim), torch.zeros_like(wanted)
    file = None if folder is None else folder / f"features-{_key(hasher, faces)}.safetensors"
    features, have = run_on_rank_zero(_read, file, features, have)
    if not (wanted & ~have).any():
        return features
    # If several runs start together, such as those of a table, one encodes and the others read its features.
    lock = None if file is None or rank() > 0 else file.with_name(f".{file.stem}.lock")
    with nullcontext() if lock is None else file_lock(lock, lambda: report(_WAITING)):
        features, have = run_on_rank_zero(_read, file, features, have)
        missing = (wanted & ~have).nonzero().squeeze(1)
        ids = [missing[:0]]
        for start in shard(range(0, len(missing), _BATCH)):
            chunk = missing[start : start + _BATCH]
            features[chunk] = hasher.features(faces.images(chunk.tolist()).to(device) / 255).cpu()
            ids.append(chunk)
            advance(len(chunk) * world_size(), len(missing))
        encoded = torch.cat(ids)
        encoded, values = gather(encoded, features[encoded])
        features[encoded] = values
        if file is not None and rank() == 0 and len(missing):
            try:
                with atomic_write(file) as path:
                    save_file({"features": features, "have": have | wanted}, path)
            except OSError as error:  # a read-only folder, a full disk: the next run encodes again
                report(f"note: features are not stored for the next run: {error}")
    return features


def rows_of_split(split: Split) -> list[int]:
    """List the images that training and search of a split may use.

    Args:
        split: split of the data set.

    Returns:
        Indices of the images.
    """
    return [row for items in split.items_by_part().values() for item in items for row in item.rows]


def _read(file: Path | None, features: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features in a file and a mask of its rows; the arguments if there is no file that fits."""
    if file is None or not file.is_file():
        return features, have
    try:
        block = open_block(file)
    except UserError:  # a damaged file is encoded again and overwritten
        return features, have
    fits = block.keys() == {"features", "have"} and block["features"].shape == features.shape
    return (block["features"].clone(), block["have"].clone()) if fits else (features, have)


def _key(hasher: VideoHasher, faces: FaceSet) -> str:
    """Return a hash of everything that determines the features: the encoder, the preprocessing and the images."""
    digest = hashlib.sha256()
    settings = {
        "preprocess": hasher.config["preprocess"],
        "encoder": {name: value for name, value in hasher.config["encoder"].items() if name != "weights"},
        "view": [faces.grayscale, faces.central_fraction, faces.vertical_offset],
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    store = faces.crops if isinstance(faces.crops, CropStore) else CropStore.of(faces.crops)
    for block in store.blocks:
        # The name of a prepared block is the hash of its rows, in every folder; a block in memory has no name.
        digest.update(f"{block.parent.name}/{block.name}".encode() if isinstance(block, Path) else _bytes(block))
    digest.update(_bytes(store.block) + _bytes(store.place))
    digest.update(hasher.encoder_fingerprint().encode())
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.cpu().numpy()).tobytes()
