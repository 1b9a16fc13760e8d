"""`TrackIndex`: a folder of tracks with codes and features; videos can be added and removed.

DIR/index.sqlite has all data, including codes and features; each video is added or removed atomically. DIR/codes/ has
the codes again, in files to be searched (see `CodeSegments`), created from the database if missing; with the kind "ivf"
DIR/codes-N/ is the `CodeIndex` of the database's N-th generation. With Milvus, the codes are in a collection that
receives all changes. DIR/model/ is the model that made the codes, or DIR/model-HASH/ after they were
fitted to the index; DIR/thumbnails/ has an image for each track.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facereel.errors import UserError
from facereel.functional import pack_codes
from facereel.models import VideoHasher
from facereel.retrieval.backends import CodeBackend
from facereel.retrieval.backends.milvus import MilvusIndex
from facereel.retrieval.calibration import Calibration, read_calibration
from facereel.retrieval.code_cache import CodeCache
from facereel.retrieval.decision_log import version_of
from facereel.retrieval.kept_decisions import forget_kept, keep_decisions, restore_decisions
from facereel.retrieval.people import People, forget_person
from facereel.retrieval.thumbnails import Thumbnails
from facereel.retrieval.track_database import (
    DATABASE,
    NEXT_GENERATION,
    TrackDatabase,
    create_tables,
    damaged,
    erase_tracks,
    erase_video,
    has_tables,
)
from facereel.retrieval.track_features import (
    MODEL,
    model_folder,
    pack_feature,
    rank_by_feature,
    refit,
)
from facereel.retrieval.track_listing import TrackListing, select_tracks
from facereel.retrieval.track_records import Match, NewTrack, Track, VideoRecord, Within
from facereel.retrieval.track_vectors import TrackVectors
from facereel.storage.untrusted import resolve_inside

__all__ = ["Match", "NewTrack", "Track", "TrackIndex", "VideoRecord", "Within"]

# At least this number of codes, the nearest by Hamming distance, are ranked by features or scores.
_RERANK_K = 100


class TrackIndex:
    """Tracks and their codes in a folder. Methods are thread-safe, and several processes may open the same folder.

    Args:
        folder: folder that `create` wrote.

    Raises:
        UserError: if the folder has no index, or this version cannot read it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.is_in(self.folder):
            raise UserError(f"{folder} has no index: {DATABASE} is missing or empty. Create one with facereel index")
        # Nothing outside the folder may be read, written or deleted.
        resolve_inside(self.folder, self.folder / Thumbnails.NAME)
        self._database = TrackDatabase(self.folder)
        self.thumbnails = self._database.thumbnails
        self.listing = TrackListing(self._database)
        about = self.about
        model_folder(self.folder, about)
        self._model = about["model"]
        self._codes = CodeCache(self._database)
        self.vectors = TrackVectors(self._database)
        """Codes and features of tracks, by id."""
        self.people = People(self._database, self.vectors.unit)
        """Decisions of the user: names, confirmed and rejected tracks."""

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether a folder has an index; False if its creation was interrupted.

        Args:
            folder: the folder.

        Raises:
            UserError: if the database is outside the folder or cannot be read.
        """
        if not (folder / DATABASE).is_file():
            return False
        resolve_inside(folder, folder / DATABASE)
        with TrackDatabase(folder).read() as connection:
            return has_tables(connection)

    @classmethod
    def create(
        cls, folder: str | Path, model: VideoHasher, about: dict[str, Any], notes: dict[str, Any] | None = None
    ) -> "TrackIndex":
        """Create an empty index, or open an existing one.

        Args:
            folder: folder of the index, created if it does not exist.
            model: model that encodes the tracks; it is saved in the index.
            about: settings with which faces are found and cropped; they must match those of an existing index.
            notes: more metadata of a new index.

        Returns:
            The index.

        Raises:
            UserError: if the existing index has another model or other settings.
            UnicodeEncodeError: if the folder's name is not UTF-8.
        """
        folder = Path(folder)
        str(folder.absolute()).encode()  # SQLite and FAISS require UTF-8
        about = {"n_bits": model.n_bits, "model": model.fingerprint(), **about}
        folder.mkdir(parents=True, exist_ok=True)
        # In one transaction: if two processes create it, one waits and then opens the index of the other.
        with TrackDatabase(folder).write(codes_change=False) as connection:
            if not has_tables(connection):
                model.save(folder / MODEL)
                create_tables(connection, {**about, **(notes or {})})
        index = cls(folder)
        _check_same(folder, index.about, about)
        return index

    @property
    def about(self) -> dict[str, Any]:
        """The metadata of the index, such as the hash of its model."""
        return self._database.about()

    @property
    def n_bits(self) -> int:
        """Length of a code in bits."""
        return int(self.about["n_bits"])

    @property
    def has_features(self) -> bool:
        """Whether the index has the tracks' features, by which the nearest tracks are ranked."""
        return self.about.get("features") is True

    def model(self) -> VideoHasher:
        """Load the model that made the codes.

        Returns:
            The model.

        Raises:
            UserError: if the model is missing, or is not the one that made the codes.
        """
        while True:
            about = self.about
            folder = model_folder(self.folder, about)
            try:
                model = VideoHasher.load(folder)
                if model.fingerprint() != about["model"]:
                    raise UserError(f"{folder} is not the model that the index was made with")
            except UserError:
                if self.about["model"] == about["model"]:
                    raise
            else:  # otherwise another process changed the model in the meantime
                return model

    def refit(self, seed: int = 0) -> None:
        """Fit the codes to the tracks of the index; see `facereel.retrieval.track_features.refit`.

        Args:
            seed: random seed of the fit.

        Raises:
            UserError: if the index has no features or too few tracks, or cannot be written to.
        """
        if not self.has_features:
            raise UserError(f"the index in {self.folder} has no features to fit codes to: index into a new folder")
        self._model = refit(self._database, self.model(), seed).fingerprint()

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that turns distances into probabilities, or None."""
        try:
            return read_calibration(self.about.get("calibration"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged(self.folder, "its calibration cannot be read") from error

    def set_calibration(self, calibration: Calibration) -> None:
        """Change the calibration of distances.

        Args:
            calibration: the calibration.
        """
        with self._database.write(codes_change=False) as connection:
            self._database.set_about(connection, {"calibration": asdict(calibration)})

    def __len__(self) -> int:
        return len(self.codes())  # SQLite would count all rows

    def fingerprint(self, video: str) -> str | None:
        """Return the fingerprint with which a video was added, or None if it is not in the index."""
        with self._database.read() as connection:
            found = connection.execute("SELECT stamp FROM videos WHERE path = ?", (video,)).fetchone()
        return None if found is None else str(found[0])

    def upsert_video(self, video: VideoRecord, tracks: Sequence[NewTrack]) -> None:
        """Add a video with its tracks atomically, or replace its tracks.

        If the video was replaced by another one before, its names, rejections and pairs are restored.

        Args:
            video: metadata of the video.
            tracks: tracks of the video; may be empty.

        Raises:
            UserError: if the disk is full, another process writes for too long, or another process fitted the codes
                to the index.
        """
        with self._database.write() as connection:
            if self._database.about_within(connection)["model"] != self._model:
                raise UserError(f"the codes of {self.folder} were fitted in the meantime: run the same command again")
            has_features = self._database.about_within(connection).get("features") is True
            keep_decisions(connection, video.path)
            erase_video(connection, video.path)
            query = "INSERT INTO videos (path, stamp, date, source, content) VALUES (?, ?, ?, ?, ?)"
            number = connection.execute(query, self._database.with_relative_source(video)).lastrowid
            columns = ["video", "number", "start_s", "end_s", "person", "code", *["feature"] * has_features]
            query = f"INSERT INTO tracks ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            for track in tracks:
                code = pack_codes(track.code[None]).numpy().tobytes()
                row = [number, track.number, track.start_s, track.end_s, track.person, code]
                if has_features:
                    if track.feature is None:
                        raise ValueError(f"track {track.number} of {video.path} needs a feature")
                    row.append(pack_feature(track.feature))
                id_ = connection.execute(query, row).lastrowid
                self.thumbnails.write(id_ or 0, track.thumbnail)
            if video.content is not None:
                restore_decisions(connection, number or 0, video.fingerprint)
        self._codes.added(len(tracks))

    def records(self, like: VideoRecord | None = None) -> dict[str, VideoRecord]:
        """Return the metadata of videos by path.

        Args:
            like: return only videos with the path or the content of this one; None returns all.
        """
        query = "SELECT path, stamp, date, source, content FROM videos"
        values: tuple[str | None, ...] = ()
        if like is not None:
            query, values = f"{query} WHERE path = ? OR content = ?", (like.path, like.content)
        with self._database.read() as connection:
            records = [VideoRecord(*row) for row in connection.execute(f"{query} ORDER BY path", values)]
        return {record.path: record._replace(source=self._database.whole_source(record.source)) for record in records}

    def update_videos(self, changes: Mapping[str, VideoRecord]) -> None:
        """Change the metadata of videos; their tracks, names and groups are kept.

        Args:
            changes: new metadata by old path. Videos may swap their paths. If a video gets the path of one that is not
                in `changes`, the latter is erased. Its decisions are restored if it is added again.
        """
        with self._database.write(codes_change=False) as connection:
            for number, path in enumerate(changes):
                connection.execute("UPDATE videos SET path = ? WHERE path = ?", (f"\0{number}", path))
            n_erased = 0
            for number, new in enumerate(changes.values()):
                keep_decisions(connection, new.path)
                n_erased += erase_video(connection, new.path)
                query = "UPDATE videos SET path = ?, stamp = ?, date = ?, source = ?, content = ? WHERE path = ?"
                connection.execute(query, (*self._database.with_relative_source(new), f"\0{number}"))
            if n_erased or "uri" in self.backend:  # Milvus has paths and dates
                connection.execute(NEXT_GENERATION)

    def remove_video(self, video: str, *, is_replaced: bool = False) -> int:
        """Erase a video with its tracks, codes and thumbnails, and the undo log.

        Args:
            video: path of the video.
            is_replaced: another video took its path. Its decisions are restored if it is added again.

        Returns:
            The number of erased tracks.
        """
        with self._database.write() as connection:
            if is_replaced:
                keep_decisions(connection, video)
            else:
                forget_person(connection, None)
                forget_kept(connection, path=video)
            return erase_video(connection, video)

    def remove_person(self, person: str) -> int:
        """Erase the tracks of a person with their codes and thumbnails, the person's photos, and the undo log.

        Args:
            person: name of the person.

        Returns:
            The number of erased tracks.
        """
        with self._database.write() as connection:
            forget_person(connection, person)
            forget_kept(connection, person=person)
            return erase_tracks(connection, "person = ?", person)

    def basis_of_clusters(self) -> tuple[Any, ...]:
        """Return values that differ after the user decided something, or the tracks were encoded by another model."""
        with self._database.write(codes_change=False) as connection:
            return self._basis(connection)

    def _basis(self, connection: sqlite3.Connection) -> tuple[Any, ...]:
        about = self._database.about_within(connection)
        return about["model"], about.get("encoding"), *version_of(connection)

    def set_clusters(self, clusters: dict[int, int], basis: tuple[Any, ...] | None = None) -> bool:
        """Replace all groups.

        Args:
            clusters: number of the group by track id.
            basis: result of `basis_of_clusters` from before the groups were made; None does not check it.

        Returns:
            False if the basis has changed; then no group was replaced.
        """
        with self._database.write(codes_change=False) as connection:
            if basis not in (None, self._basis(connection)):
                return False
            clustering = self._database.about_within(connection).get("clustering", 0)
            self._database.set_about(connection, {"clustering": clustering + 1})
            connection.execute("UPDATE tracks SET cluster = NULL")
            pairs = [(cluster, track) for track, cluster in clusters.items()]
            connection.executemany("UPDATE tracks SET cluster = ? WHERE id = ?", pairs)
        return True

    def tracks(self, ids: Sequence[int] | None = None, *, video: str | None = None) -> list[Track]:
        """Read tracks.

        Args:
            ids: ids of the tracks, in the order of the result; unknown ids are skipped. None reads all.
            video: without ids, read only the tracks of the video with this path.

        Returns:
            The tracks; without ids in ascending order of id.

        Raises:
            UserError: if the index is damaged.
        """
        if ids is None:
            chosen = "TRUE" if video is None else "path = :path"
            return select_tracks(self._database, "tracks", f"{chosen} ORDER BY tracks.id", path=video)
        source = "json_each(:ids) AS ids JOIN tracks ON tracks.id = ids.value"
        return select_tracks(self._database, source, "TRUE ORDER BY ids.key", ids=json.dumps(list(ids)))

    def ids_of_person(self, person: str) -> list[int]:
        """Return the ids of the tracks with a person's name, in ascending order."""
        with self._database.read() as connection:
            query = "SELECT id FROM tracks WHERE person = ? ORDER BY id"
            return [id_ for (id_,) in connection.execute(query, (person,))]

    def videos(self) -> list[str]:
        """Return the paths of all videos, including those without tracks."""
        return list(self.records())

    def search(
        self,
        code: Tensor,
        k: int,
        *,
        scores: Tensor | None = None,
        feature: Tensor | None = None,
        within: Within | None = None,
    ) -> list[Match]:
        """Find the tracks nearest to a query.

        Args:
            code: (K,) bool.
            k: maximum number of tracks.
            scores: (K,) float in 0..1, the query's real-valued outputs, for an index without features.
            feature: (D,) float of length 1, for an index with features.
            within: videos to search in; None searches all.

        Returns:
            Matches, sorted by distance, then id. With a feature, the tracks nearest by Hamming distance are ranked by
            their features, and a distance is half of 1 minus the cosine, in 0..1. Otherwise a distance is the fraction
            of bits that differ, in 0..1. With scores, bits are weighted by the distance of their score from 1/2. This
            gives the same order as the asymmetric distance, but the distances of different queries are comparable.
        """
        codes, subset_ids = self.codes(), None
        if within is not None and within != Within():
            if isinstance(codes, MilvusIndex):
                codes = codes.in_videos(*within)
            else:
                subset_ids = torch.from_numpy(self._database.ids_within(within))
        rerank_k = max(_RERANK_K, 2 * k)
        if codes.max_k is not None:
            rerank_k = max(k, min(rerank_k, codes.max_k))
        if feature is not None:
            _, ids = codes.search(code[None], rerank_k, subset_ids=subset_ids)
            by_id = rank_by_feature(self._database, feature, ids[0].tolist(), k)
        else:
            if scores is None:
                distances, ids = codes.search(code[None], k, subset_ids=subset_ids)
                distances = distances[0] / self.n_bits
            else:
                found = codes.search(code[None], k, scores=scores[None], subset_ids=subset_ids, rerank_k=rerank_k)
                distances, ids = found[0][0], found[1]
                sure = (2 * scores - 1).abs()
                # A bit that agrees adds (1 - sure)^2 / 4 to the asymmetric distance, one that differs (1 + sure)^2 / 4.
                distances = (distances - ((1 - sure) ** 2).sum() / 4) / sure.sum()
            by_id = dict(zip(ids[0].tolist(), distances.tolist(), strict=True))
        return [Match(track, by_id[track.id]) for track in self.tracks(list(by_id))]

    def codes(self) -> CodeBackend:
        """Return the current codes of all tracks with their ids; do not change them."""
        return self._codes.current()[1]

    @property
    def backend(self) -> dict[str, str]:
        """The search backend: {"kind": kind of `CodeIndex`}, or a `MilvusIndex.place`."""
        return self._codes.backend

    def set_backend(self, kind: str | None = None, uri: str | None = None) -> None:
        """Change the search backend, if it differs from the current one.

        Args:
            kind: kind of `CodeIndex`; None keeps the current one, or selects "flat".
            uri: address of Milvus instead; a new collection is created there.

        Raises:
            UserError: if the new Milvus, or the old one, from which the codes are erased, cannot be reached.
        """
        self._codes.set_backend(kind, uri)

    def save_codes(self) -> None:
        """Save the current codes next to the database, so that they load faster, or send them to Milvus."""
        self._codes.save()


def _check_same(folder: Path, before: dict[str, Any], about: dict[str, Any]) -> None:
    if before["model"] != about["model"]:
        raise UserError(
            f"the index in {folder} was made by another model (hash {before['model'][:12]}, not "
            f"{about['model'][:12]}): the codes of two models cannot be compared. Choose another folder"
        )
    for name, value in about.items():
        if before.get(name) != value:
            raise UserError(
                f"the index in {folder} was made with {name} {before.get(name)}, not {value}: choose another folder"
            )
