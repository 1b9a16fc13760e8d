"""`TrackIndex`: a folder of tracks with their codes, which grows and shrinks a video at a time.

DIR/index.sqlite has all that is known, codes too, and changes a whole video at a time or not at all.
DIR/codes-N/ is the `CodeIndex` of its N-th state, made from it where it is absent; or Milvus has the codes, and is told
what changed. DIR/model/ is the model that made the codes, DIR/thumbnails/ an image for each track.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from facereel.errors import UserError
from facereel.functional import pack_codes, unpack_codes
from facereel.models import VideoHasher
from facereel.retrieval.backends import CodeBackend
from facereel.retrieval.backends.milvus import MilvusIndex
from facereel.retrieval.code_cache import CodeCache
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
from facereel.retrieval.track_records import Match, NewTrack, Track, VideoRecord, Within
from facereel.storage.untrusted import resolve_inside

__all__ = ["Match", "NewTrack", "Track", "TrackIndex", "VideoRecord", "Within"]

MODEL = "model"

# At least this many of the codes nearest by Hamming distance are ranked by scores.
_RERANK_K = 100

# SQLite stores any type of value in any column.
_TYPES = tuple(get_type_hints(Track).values())


class TrackIndex:
    """Tracks and their codes in a folder. Several threads may call its methods, and several processes open the folder.

    Args:
        folder: what `create` wrote.

    Raises:
        UserError: if there is no index, or one that this version cannot read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.is_in(self.folder):
            raise UserError(f"{folder} holds no index: {DATABASE} is absent or empty; facereel index makes one")
        # Nothing that is read, written or deleted here may be elsewhere.
        for name in (MODEL, Thumbnails.NAME):
            resolve_inside(self.folder, self.folder / name)
        self._database = TrackDatabase(self.folder)
        self.thumbnails = self._database.thumbnails
        self.n_bits: int = self.about["n_bits"]
        self._codes = CodeCache(self._database, self.n_bits)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder has an index; one that was killed while it was made is none yet.

        Raises:
            UserError: if its database is elsewhere or cannot be read.
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
        """Make an empty index, or open the one that is there.

        Args:
            folder: made if it is absent.
            model: that makes the codes; it is saved in the index.
            about: how faces are found and cropped, which must stay the same.
            notes: what else is recorded of a new index.

        Raises:
            UserError: if there is an index of another model, or of faces that were found or cropped in another way.
            UnicodeEncodeError: if the folder's name is not UTF-8.
        """
        folder = Path(folder)
        str(folder.absolute()).encode()  # as SQLite and FAISS want it
        about = {"n_bits": model.n_bits, "model": model.fingerprint(), **about}
        folder.mkdir(parents=True, exist_ok=True)
        # In one transaction: of two processes that both make it, one waits and finds the other's.
        with TrackDatabase(folder).write(codes_change=False) as connection:
            if not has_tables(connection):
                model.save(folder / MODEL)
                create_tables(connection, {**about, **(notes or {})})
        index = cls(folder)
        _check_same(folder, index.about, about)
        return index

    @property
    def about(self) -> dict[str, Any]:
        """What was recorded when it was made, such as its model's hash."""
        return self._database.about()

    def model(self) -> VideoHasher:
        """Load the model that made the codes.

        Raises:
            UserError: if it is absent, or not the one that the index was made with.
        """
        model = VideoHasher.load(self.folder / MODEL)
        if model.fingerprint() != self.about["model"]:
            raise UserError(f"{self.folder / MODEL} is not the model that the index was made with")
        return model

    def __len__(self) -> int:
        return len(self.codes())  # SQLite would count them one by one

    def fingerprint(self, video: str) -> str | None:
        """The fingerprint with which a video was added, or None if it is not in the index."""
        with self._database.read() as connection:
            found = connection.execute("SELECT stamp FROM videos WHERE path = ?", (video,)).fetchone()
        return None if found is None else str(found[0])

    def upsert_video(self, video: VideoRecord, tracks: Sequence[NewTrack]) -> None:
        """Add a video's tracks, in place of those it had; all of them or, on an error, none.

        Args:
            video: what is recorded of it.
            tracks: any number.

        Raises:
            UserError: if the disk is full, or another process writes for too long.
        """
        with self._database.write() as connection:
            erase_video(connection, video.path)
            query = "INSERT INTO videos (path, stamp, date, source, content) VALUES (?, ?, ?, ?, ?)"
            number = connection.execute(query, video).lastrowid
            query = "INSERT INTO tracks (video, number, start_s, end_s, person, code) VALUES (?, ?, ?, ?, ?, ?)"
            for track in tracks:
                code = pack_codes(track.code[None]).numpy().tobytes()
                row = (number, track.number, track.start_s, track.end_s, track.person, code)
                id_ = connection.execute(query, row).lastrowid
                self.thumbnails.write(id_ or 0, track.thumbnail)

    def records(self) -> dict[str, VideoRecord]:
        """What is recorded of each video, by its path."""
        with self._database.read() as connection:
            found = connection.execute("SELECT path, stamp, date, source, content FROM videos ORDER BY path")
            return {row[0]: VideoRecord(*row) for row in found}

    def update_videos(self, changes: Mapping[str, VideoRecord]) -> None:
        """Change what is recorded of videos; their tracks, names and groups stay.

        Args:
            changes: by the path until now. A video may take the path of another, and two may exchange theirs; a video
                that does not change itself and has a path that another takes is erased.
        """
        with self._database.write(codes_change=False) as connection:
            for number, path in enumerate(changes):
                connection.execute("UPDATE videos SET path = ? WHERE path = ?", (f"\0{number}", path))
            n_erased = 0
            for number, new in enumerate(changes.values()):
                n_erased += erase_video(connection, new.path)
                query = "UPDATE videos SET path = ?, stamp = ?, date = ?, source = ?, content = ? WHERE path = ?"
                connection.execute(query, (*new, f"\0{number}"))
            if n_erased or "uri" in self.backend:  # Milvus has paths and dates
                connection.execute(NEXT_GENERATION)

    def remove_video(self, video: str) -> int:
        """Erase a video's tracks, codes and thumbnails; return how many tracks it had."""
        with self._database.write() as connection:
            return erase_video(connection, video)

    def remove_person(self, person: str) -> int:
        """Erase the tracks, codes and thumbnails with a name; return how many tracks there were."""
        with self._database.write() as connection:
            return erase_tracks(connection, "person = ?", person)

    def name(self, tracks: Iterable[int], person: str | None) -> None:
        """Give tracks a person's name, or take it away."""
        with self._database.write(codes_change=False) as connection:
            connection.executemany("UPDATE tracks SET person = ? WHERE id = ?", [(person, track) for track in tracks])

    def set_clusters(self, clusters: dict[int, int]) -> None:
        """Set the group of each track, in place of all groups there were."""
        with self._database.write(codes_change=False) as connection:
            connection.execute("UPDATE tracks SET cluster = NULL")
            pairs = [(cluster, track) for track, cluster in clusters.items()]
            connection.executemany("UPDATE tracks SET cluster = ? WHERE id = ?", pairs)

    def tracks(self, ids: Sequence[int] | None = None, *, video: str | None = None) -> list[Track]:
        """Tracks by their ids, in that order, without those not stored; or those of a video, or all, by id."""
        columns = "tracks.id, videos.path, number, start_s, end_s, person, cluster, date, source, content"
        videos = "JOIN videos ON videos.id = video"
        values: dict[str, str | None]
        if ids is None:
            chosen, values = f"tracks {videos} WHERE :path IS NULL OR path = :path ORDER BY tracks.id", {"path": video}
        else:
            chosen = f"json_each(:ids) AS ids JOIN tracks ON tracks.id = ids.value {videos} ORDER BY ids.key"
            values = {"ids": json.dumps(list(ids))}
        with self._database.read() as connection:
            found = connection.execute(f"SELECT {columns} FROM {chosen}", values).fetchall()
        tracks = [Track(*(*row[:-1], self.thumbnails.path(row[0]), row[-1])) for row in found]
        for track in tracks:
            if not all(isinstance(value, types) for value, types in zip(track, _TYPES, strict=True)):
                raise damaged(self.folder, f"a value of track {track.id} has another type")
        return tracks

    def videos(self) -> list[str]:
        """The paths of all videos, those without tracks too."""
        return list(self.records())

    def search(
        self, code: Tensor, k: int, *, scores: Tensor | None = None, within: Within | None = None
    ) -> list[Match]:
        """Find the tracks nearest to a query.

        Args:
            code: (K,) bool.
            k: how many at most.
            scores: (K,) float in 0..1, the query's real-valued outputs. If given, the tracks nearest by Hamming
                distance are ranked by the asymmetric one.
            within: among which videos.

        Returns:
            Matches by distance and id. A distance is the fraction of bits that differ, 0..1; with scores each bit
            counts by how far its score is from 1/2. Such distances have the order of the asymmetric distance, and
            unlike it can be compared from query to query.
        """
        codes, subset_ids = self.codes(), None
        if within is not None and within != Within():
            if isinstance(codes, MilvusIndex):
                codes = codes.in_videos(*within)
            else:
                subset_ids = torch.from_numpy(self._database.ids_within(within))
        if scores is None:
            distances, ids = codes.search(code[None], k, subset_ids=subset_ids)
            distances = distances[0] / self.n_bits
        else:
            rerank_k = max(_RERANK_K, 2 * k)
            if codes.max_k is not None:
                rerank_k = max(k, min(rerank_k, codes.max_k))
            distances, ids = codes.search(code[None], k, scores=scores[None], subset_ids=subset_ids, rerank_k=rerank_k)
            sure = (2 * scores - 1).abs()
            # A bit that agrees adds (1 - sure)^2 / 4 to the asymmetric distance, one that differs (1 + sure)^2 / 4.
            distances = (distances[0] - ((1 - sure) ** 2).sum() / 4) / sure.sum()
        by_id = dict(zip(ids[0].tolist(), distances.tolist(), strict=True))
        return [Match(track, by_id[track.id]) for track in self.tracks(list(by_id))]

    def code(self, track: int) -> Tensor | None:
        """A track's code, (K,) bool, or None if it is not stored."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT id, code FROM tracks WHERE id = ?", (track,)).fetchall()
        if not rows:
            return None
        packed, _ = self._database.unpack(rows, self.n_bits)
        return unpack_codes(torch.from_numpy(packed.copy()), self.n_bits)[0]

    def codes(self) -> CodeBackend:
        """The codes of all tracks with their ids, as they are now; not to be changed."""
        return self._codes.current()[1]

    @property
    def backend(self) -> dict[str, str]:
        """What searches the codes: {"kind": of a `CodeIndex`}, or a `MilvusIndex.place`."""
        return self._codes.backend

    def set_backend(self, kind: str | None = None, uri: str | None = None) -> None:
        """Search the codes in another way from now on, unless it is the way there is.

        Args:
            kind: of `CodeIndex`; None for the one there is, or flat.
            uri: of Milvus, instead; a new collection is made there.

        Raises:
            UserError: if Milvus cannot be reached, there or where the codes were: those are erased.
        """
        self._codes.set_backend(kind, uri)

    def save_codes(self) -> None:
        """Save the current codes next to the database, from where they are loaded faster; or tell Milvus."""
        self._codes.save()


def _check_same(folder: Path, before: dict[str, Any], about: dict[str, Any]) -> None:
    if before["model"] != about["model"]:
        raise UserError(
            f"the index in {folder} was made by another model (hash {before['model'][:12]}, not "
            f"{about['model'][:12]}): their codes do not compare; choose another folder"
        )
    for name, value in about.items():
        if before.get(name) != value:
            raise UserError(f"the index in {folder} was made with {name} {before.get(name)}, not {value}")
