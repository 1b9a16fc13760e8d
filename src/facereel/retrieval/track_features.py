"""Features of tracks, stored as 8-bit integers next to the codes, and codes that are fitted to them."""

import json
import re
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.functional import pack_codes
from facereel.models import RotationHead, VideoHasher
from facereel.retrieval.backends.ranking import first_by_distance
from facereel.retrieval.milvus_queue import ADD_ALL
from facereel.retrieval.track_database import SEGMENTS, TrackDatabase, damaged, run_script
from facereel.storage.untrusted import resolve_inside

# An index fits its codes when it first has this number of tracks. Our choice: docs/results/search_accuracy.md.
FIT_TRACKS = 500
# Number of tracks to fit to, evenly spaced; more change nothing that we could measure.
_FIT_SAMPLE = 10_000
# Number of tracks to encode at a time.
_AT_ONCE = 2**16

# The folder of the model with which an index is created, and of a model that was fitted to it.
MODEL = "model"
_MODEL_NAME = re.compile(r"model(-[0-9a-f]{16})?")


def pack_feature(feature: Tensor) -> bytes:
    """Return a (D,) float feature as D signed bytes; its length is lost."""
    largest = feature.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return (feature / largest * 127).round().to(torch.int8).cpu().numpy().tobytes()


def unpack_features(folder: Path, stored: Sequence[Any]) -> Tensor:
    """Convert features from the database.

    Args:
        folder: folder of the index.
        stored: N values from `pack_feature`.

    Returns:
        (N, D) float32 of length 1.

    Raises:
        UserError: if a feature is missing or has another length.
    """
    dim = len(stored[0]) if stored and type(stored[0]) is bytes else 0
    if any(type(feature) is not bytes or len(feature) != dim for feature in stored):
        raise damaged(folder, "a track's feature is missing or has another length")
    values = np.frombuffer(b"".join(stored), np.int8).reshape(len(stored), dim)
    return normalize(torch.from_numpy(values.astype(np.float32)), dim=1)


def read_features(database: TrackDatabase, ids: Sequence[int]) -> tuple[list[int], Tensor]:
    """Read features of tracks.

    Args:
        database: database of an index with features.
        ids: ids of tracks; those that are no longer in the index are skipped.

    Returns:
        The ids of N tracks in the given order, and (N, D) float32 features of length 1.

    Raises:
        UserError: if the features are damaged.
    """
    with database.read() as connection:
        query = (
            "SELECT tracks.id, feature FROM json_each(?) AS ids JOIN tracks ON tracks.id = ids.value ORDER BY ids.key"
        )
        rows = connection.execute(query, (json.dumps(list(ids)),)).fetchall()
    return [id_ for id_, _ in rows], unpack_features(database.folder, [stored for _, stored in rows])


def rank_by_feature(database: TrackDatabase, feature: Tensor, ids: Sequence[int], k: int) -> dict[int, float]:
    """Find the tracks nearest to a feature.

    Args:
        database: database of an index with features.
        feature: (D,) float of length 1.
        ids: ids of the tracks to rank; those that are no longer in the index are skipped.
        k: maximum number of tracks.

    Returns:
        The distance of each track by id, half of 1 minus the cosine, in 0..1, sorted by distance, then id.

    Raises:
        UserError: if the features are damaged.
    """
    known, features = read_features(database, ids)
    if known and features.shape[1] != len(feature):
        raise damaged(database.folder, f"its features have {features.shape[1]} numbers, not {len(feature)}")
    cosines = (features @ feature.float().cpu()).double() if known else torch.zeros(0)
    distances = ((1 - cosines) / 2).clamp(0, 1).numpy()
    nearest, found = first_by_distance(distances, np.array(known, np.int64), k)
    return dict(zip(found.tolist(), nearest.tolist(), strict=True))


def model_folder(folder: Path, about: dict[str, Any]) -> Path:
    """Return the folder of an index's model.

    Args:
        folder: folder of the index.
        about: metadata of the index.

    Raises:
        UserError: if the metadata is damaged.
    """
    name = about.get("model_folder", MODEL)
    if not (isinstance(name, str) and _MODEL_NAME.fullmatch(name)):
        raise damaged(folder, "the name of its model's folder is invalid")
    return resolve_inside(folder, folder / name)


def refit(database: TrackDatabase, model: VideoHasher, seed: int = 0) -> VideoHasher:
    """Fit the model's codes to the tracks of an index, and encode all tracks again from their features.

    All codes change in one transaction. Nobody's name is used. The same tracks give the same codes.

    Args:
        database: database of an index with features.
        model: model of the index; its head is fitted in place.
        seed: random seed of the fit.

    Returns:
        The model.

    Raises:
        UserError: if there are too few tracks, the index cannot be written to, or another process changed the model.
    """
    before = model.fingerprint()
    n_tracks = fit_head(database, model, "tracks", seed)
    with database.write() as connection:
        if database.about_within(connection)["model"] != before:
            raise UserError(f"the codes of {database.folder} were changed in the meantime: run the same command again")
        hash_tracks(database, connection, model)
        use_model(database, connection, model, {"fitted_to": n_tracks})
    remove_other_models(database)
    return model


def fit_head(database: TrackDatabase, model: VideoHasher, table: str, seed: int = 0) -> int:
    """Fit the head of a model to the features in a table.

    Args:
        database: database of the index.
        model: model whose head is fitted in place.
        table: name of the table.
        seed: random seed of the fit.

    Returns:
        The number of features in the table.

    Raises:
        UserError: if the head cannot be fitted.
    """
    head = model.head
    if not isinstance(head, RotationHead):
        raise UserError("only the codes of a model that needs no training can be fitted to an index")
    with database.read() as connection:
        (n_tracks,) = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
        query = f"SELECT feature FROM {table} WHERE rowid % ? = 0 ORDER BY rowid LIMIT ?"
        step = max(1, n_tracks // _FIT_SAMPLE)
        rows = connection.execute(query, (step, _FIT_SAMPLE)).fetchall()
    head.fit(unpack_features(database.folder, [stored for (stored,) in rows]), seed)
    return int(n_tracks)


def hash_tracks(database: TrackDatabase, connection: sqlite3.Connection, model: VideoHasher) -> None:
    """Compute the codes of all tracks from their features.

    Args:
        database: database of the index.
        connection: connection with an open transaction.
        model: the model.
    """
    last = -1
    while rows := connection.execute(
        "SELECT id, feature FROM tracks WHERE id > ? ORDER BY id LIMIT ?", (last, _AT_ONCE)
    ).fetchall():
        features = unpack_features(database.folder, [stored for _, stored in rows])
        with torch.inference_mode():
            packed = pack_codes(model.hash_pooled(features) > 0.5).numpy()
        new = [(code.tobytes(), id_) for code, (id_, _) in zip(packed, rows, strict=True)]
        connection.executemany("UPDATE tracks SET code = ? WHERE id = ?", new)
        last = rows[-1][0]


def use_model(
    database: TrackDatabase, connection: sqlite3.Connection, model: VideoHasher, about: Mapping[str, Any]
) -> None:
    """Save a model next to the current one, and record that all codes are those of the new model.

    The open transaction keeps other processes from removing the folder before it is recorded.

    Args:
        database: database of the index.
        connection: connection with an open transaction.
        model: the model.
        about: other metadata to change.
    """
    fingerprint = model.fingerprint()
    name = f"{MODEL}-{fingerprint[:16]}"
    model.save(database.folder / name)
    values = {"model": fingerprint, "model_folder": name, "n_bits": model.n_bits, SEGMENTS: [], **about}
    database.set_about(connection, values)
    if "uri" in database.about_within(connection).get("codes", {}):
        run_script(connection, ADD_ALL)


def remove_other_models(database: TrackDatabase) -> None:
    """Remove the folders of all models but the current one, including those that a killed process left.

    Args:
        database: database of the index.
    """
    with database.write(codes_change=False) as connection:  # nobody changes the model in the meantime
        name = database.about_within(connection).get("model_folder", MODEL)
        for old in database.folder.glob(f"{MODEL}*"):
            if _MODEL_NAME.fullmatch(old.name) and old.name != name:
                shutil.rmtree(old, ignore_errors=True)
