"""Encode the tracks of an index again with another model. Ids, names, groups and decisions are kept."""

import copy
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from facereel.errors import UserError
from facereel.functional import pack_codes
from facereel.models import VideoHasher
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.encode import check_margin, encode_clip, has_features, have_same_features
from facereel.retrieval.track_crops import read_crops
from facereel.retrieval.track_database import TrackDatabase, run_script
from facereel.retrieval.track_features import (
    FIT_TRACKS,
    fit_head,
    hash_tracks,
    pack_feature,
    remove_other_models,
    use_model,
)
from facereel.retrieval.track_index import TrackIndex
from facereel.storage.files import file_lock

# Number of tracks that are encoded and saved together.
_AT_ONCE = 256

# What was encoded so far. Erased tracks are erased here too.
_SCHEMA = """
DROP TABLE IF EXISTS next;
CREATE TABLE next (track INTEGER PRIMARY KEY, code BLOB NOT NULL, feature BLOB);
CREATE TRIGGER next_erased AFTER DELETE ON tracks BEGIN DELETE FROM next WHERE track = old.id; END;
"""
_END = "DROP TABLE next; DELETE FROM about WHERE name = 'next'; DELETE FROM about WHERE name = 'fitted_to';"
_MISSING = "SELECT id FROM tracks WHERE id NOT IN (SELECT track FROM next) ORDER BY video, number LIMIT ?"


def change_model(
    index: TrackIndex,
    model: VideoHasher,
    calibration: Calibration | None = None,
    *,
    codes_only: bool = False,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> bool:
    """Encode all tracks from their crops with another model, then switch the index to it in one transaction.

    Until then the index answers with the old model. If this is stopped and called again with the same model, it
    continues. If the index has enough tracks, the codes of a model that needs no training are fitted to it.

    Args:
        index: the index.
        model: the new model.
        calibration: calibration of the new model's distances, or None.
        codes_only: do not store features.
        advance: called with the number of tracks done since the last call, and the total.

    Returns:
        False if the index already has this model, whose codes may have been fitted to it.

    Raises:
        UserError: if the crops are missing, have changed or are too narrow for the model, if the codes are in Milvus,
            or if another process is doing this.
    """
    check_margin(model, float(index.about["margin"]))
    _check_backend(index.backend)
    with file_lock(index.folder / ".next.lock") as held:
        if held is None:
            raise UserError(f"another process is encoding {index.folder} again: wait until it has finished")
        with_features = has_features(model) and not codes_only
        if index.has_features == with_features and _is_same(index.model(), model):
            remove_other_models(TrackDatabase(index.folder))
            return False
        _ModelChange(index, model, calibration, with_features).run(advance)
        return True


def _check_backend(backend: dict[str, str]) -> None:
    if "uri" in backend:
        raise UserError("the codes are in Milvus, whose collections have one code length: move them to FAISS first")


def _is_same(current: VideoHasher, model: VideoHasher) -> bool:
    """Return whether the models are equal, apart from codes that may be fitted."""
    if not (has_features(current) and has_features(model)):
        return current.fingerprint() == model.fingerprint()
    return current.config["head"] == model.config["head"] and have_same_features(current, model)


class _ModelChange:
    """One call of `change_model`."""

    def __init__(
        self, index: TrackIndex, model: VideoHasher, calibration: Calibration | None, with_features: bool
    ) -> None:
        self._index, self._database = index, TrackDatabase(index.folder)
        self._model, self._calibration, self._with_features = model, calibration, with_features
        self._key = f"{model.fingerprint()} {with_features}"

    def run(self, advance: Callable[[int, int], object]) -> None:
        with self._database.write(codes_change=False) as connection:
            if self._database.about_within(connection).get("next") != self._key:
                run_script(connection, "DROP TRIGGER IF EXISTS next_erased;" + _SCHEMA)
                self._database.set_about(connection, {"next": self._key})
            (n_done,) = connection.execute("SELECT COUNT(*) FROM next").fetchone()
        advance(n_done, len(self._index))
        is_switched = False
        while not is_switched:
            while ids := self._missing():
                self._encode(ids)
                advance(len(ids), len(self._index))
            is_switched = self._switch()

    def _missing(self) -> list[int]:
        with self._database.read() as connection:
            self._check(connection)
            return [id_ for (id_,) in connection.execute(_MISSING, (_AT_ONCE,))]

    def _encode(self, ids: Sequence[int]) -> None:
        margin = float(self._index.about["margin"])
        rows = []
        for track, crops in read_crops(self._index.tracks(ids)):
            made = encode_clip(crops, margin, self._model)
            feature = pack_feature(made.feature) if self._with_features and made.feature is not None else None
            rows.append((track.id, pack_codes(made.code[None]).numpy().tobytes(), feature))
        with self._database.write(codes_change=False) as connection:
            self._check(connection)
            # A track may have been erased in the meantime.
            query = "INSERT OR REPLACE INTO next SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM tracks WHERE id = ?1)"
            connection.executemany(query, rows)

    def _switch(self) -> bool:
        """Switch the index to the new model; return False if tracks were added in the meantime."""
        calibration = None if self._calibration is None else asdict(self._calibration)
        about: dict[str, Any] = {"features": self._with_features, "calibration": calibration}
        model = copy.deepcopy(self._model)  # tracks that are added in the meantime are encoded without the fit
        if is_fitted := self._with_features and len(self._index) >= FIT_TRACKS:
            about["fitted_to"] = fit_head(self._database, model, "next")
        with self._database.write() as connection:
            self._check(connection)
            _check_backend(self._database.about_within(connection).get("codes", {}))
            if connection.execute(_MISSING, (1,)).fetchone():
                return False
            columns = [row[1] for row in connection.execute("PRAGMA table_info(tracks)")]
            if self._with_features and "feature" not in columns:
                connection.execute("ALTER TABLE tracks ADD COLUMN feature BLOB")
            elif not self._with_features and "feature" in columns:
                connection.execute("ALTER TABLE tracks DROP COLUMN feature")
            changed = ", feature = next.feature" if self._with_features else ""
            connection.execute(f"UPDATE tracks SET code = next.code{changed} FROM next WHERE next.track = tracks.id")
            if is_fitted:
                hash_tracks(self._database, connection, model)
            before = self._database.about_within(connection).get("encoding", 0)
            run_script(connection, "DROP TRIGGER next_erased;" + _END)
            use_model(self._database, connection, model, {**about, "encoding": before + 1})
        remove_other_models(self._database)
        return True

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise an error if another process encodes with another model: without file locks, both run at once."""
        if self._database.about_within(connection).get("next") != self._key:
            raise UserError(f"another process is encoding {self._index.folder} again: wait until it has finished")
