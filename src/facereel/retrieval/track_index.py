"""`TrackIndex`: a folder of tracks with their codes, which grows and shrinks a video at a time.

DIR/index.sqlite holds all that is known, codes among it, and changes a whole video at a time or not at all.
DIR/codes-N/ is the `CodeIndex` of its N-th state, made from it and made anew where it is absent, or Milvus holds the
codes, and is told what changed; DIR/model/ is the model that made the codes, DIR/thumbnails/ a picture a track.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.files import inside, parse_json
from facereel.functional import pack_codes
from facereel.models import VideoHasher
from facereel.retrieval.approximate import KINDS
from facereel.retrieval.index import META_FILE, MOST_BITS, CodeIndex
from facereel.retrieval.milvus import MilvusIndex, checked_uri, is_own_place
from facereel.retrieval.track_database import (
    DATABASE,
    NOT_PENDING,
    PENDING,
    SCHEMA,
    connect,
    damaged,
    erase,
    explained,
)
from facereel.video.content import is_gone
from facereel.video.track_file import ENDING

MODEL = "model"
THUMBNAILS = "thumbnails"

# Counted up when an index of before is no longer read.
FORMAT = 2

_NEXT_GENERATION = "UPDATE about SET value = value + 1 WHERE name = 'generation'"

# Of a `Track`'s values.
_TIME = (float, int, type(None))
_KINDS: tuple[type | tuple[type, ...], ...] = (
    *(int, str, int, _TIME, _TIME),
    *((str, type(None)), (int, type(None)), _TIME, str, Path, (str, type(None))),
)

# Thumbnails in one folder: file managers are slow with more.
_A_FOLDER = 1000
# Re-ranked by asymmetric distance are at least so many of the codes nearest by Hamming distance.
_SHORTLIST = 100
# Tracks that Milvus is told of at once, while no other process may write.
_PUSHED_AT_ONCE = 20_000


class NewTrack(NamedTuple):
    """A track to be added."""

    number: int
    """In its video, from 0."""
    start_s: float | None
    end_s: float | None
    """First and last time its face is seen, in seconds; None where a data set has frames without times."""
    person: str | None
    """Name, if known."""
    code: Tensor
    """(K,) bool."""
    thumbnail: bytes
    """JPEG."""


class Track(NamedTuple):
    """A track in the index."""

    id: int
    video: str
    """Path of the file, or the name of a data set's source."""
    number: int
    """In its video, from 0."""
    start_s: float | None
    end_s: float | None
    person: str | None
    cluster: int | None
    """The group that `facereel cluster` put it in."""
    date: float | None
    """When the file was last changed, in seconds since 1970."""
    source: str
    """The track file or the prepared data set that it was read from."""
    thumbnail: Path
    content: str | None = None
    """Of the file, as `content_of` makes it; None of a data set's."""

    @property
    def is_absent(self) -> bool:
        """Whether its video is a file that is gone, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.video)


class VideoRecord(NamedTuple):
    """What the index records of a video."""

    path: str
    stamp: str
    date: float | None
    source: str
    content: str | None
    """As `content_of` makes it; None of a data set's."""

    @property
    def is_absent(self) -> bool:
        """Whether it is a file that is gone, or on a drive that is not connected."""
        return is_video_file(self.source) and is_gone(self.path)


class Match(NamedTuple):
    """A track that was found."""

    track: Track
    distance: float


class Within(NamedTuple):
    """Which videos to search; what is None does not matter."""

    folder: str | None = None
    """Videos below this folder."""
    since: float | None = None
    until: float | None = None
    """Videos dated so, both ends included, in seconds since 1970."""


class TrackIndex:
    """Tracks and their codes in a folder. Methods may be called from several threads, and beside other processes.

    Args:
        folder: what `create` wrote.

    Raises:
        UserError: if there is no index, or one that this version cannot read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.is_in(self.folder):
            raise UserError(f"{folder} holds no index: {DATABASE} is absent or empty; facereel index makes one")
        # Nothing that is read, written or deleted here lies elsewhere, whoever made the folder.
        for name in (DATABASE, MODEL, THUMBNAILS):
            inside(self.folder, self.folder / name)
        self._lock = threading.Lock()
        self._codes: tuple[int, CodeIndex] | None = None
        found = self.about
        if found.get("format") != FORMAT:
            raise UserError(
                f"the index in {folder} has format {found.get('format')}, this version of facereel reads {FORMAT}: "
                "index the tracks again into a new folder"
            )
        self.n_bits: int = found.get("n_bits", 0)
        if type(self.n_bits) is not int or not 0 < self.n_bits <= MOST_BITS:
            raise damaged(self.folder, "n_bits is no length of a code")
        if type(found.get("model")) is not str:
            raise damaged(self.folder, "it does not say which model made its codes")

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder holds an index; one whose making was cut off is none yet.

        Raises:
            UserError: if the database lies elsewhere or cannot be read.
        """
        if not (folder / DATABASE).is_file():
            return False
        inside(folder, folder / DATABASE)
        with explained(folder), closing(connect(folder)) as database:
            return database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None

    @classmethod
    def create(
        cls, folder: str | Path, model: VideoHasher, about: dict[str, Any], notes: dict[str, Any] | None = None
    ) -> TrackIndex:
        """Make an empty index, or open the one that is there.

        Args:
            folder: which is made if need be.
            model: what codes are made with; it is saved within.
            about: what else is recorded and must stay the same: how faces are found and cut.
            notes: what is recorded of a new index only.

        Raises:
            UserError: if there is an index of another model, or of faces that were found or cut in another way.
            UnicodeEncodeError: if the folder's name is not UTF-8.
        """
        folder = Path(folder)
        str(folder.absolute()).encode()  # as SQLite and FAISS want it
        about = {"n_bits": model.n_bits, "model": model.fingerprint(), **about}
        folder.mkdir(parents=True, exist_ok=True)
        # In one go, so that of two processes that both make it one waits and finds the other's.
        with explained(folder), closing(connect(folder)) as database:
            database.execute("BEGIN IMMEDIATE")
            with database:
                if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    model.save(folder / MODEL)
                    for statement in SCHEMA.split(";"):
                        database.execute(statement)
                    entries = {"format": FORMAT, "generation": 0, **about, **(notes or {})}
                    values = [(name, json.dumps(value)) for name, value in entries.items()]
                    database.executemany("INSERT INTO about VALUES (?, ?)", values)
        index = cls(folder)
        before = index.about
        if before["model"] != about["model"]:
            raise UserError(
                f"the index in {folder} was made by another model (hash {before['model'][:12]}, not "
                f"{about['model'][:12]}): their codes do not compare; choose another folder"
            )
        for name, value in about.items():
            if before.get(name) != value:
                raise UserError(f"the index in {folder} was made with {name} {before.get(name)}, not {value}")
        return index

    @property
    def about(self) -> dict[str, Any]:
        """What was recorded when it was made, its model's hash among it."""
        with self._read() as database:
            about = {name: self._parsed(value) for name, value in database.execute("SELECT name, value FROM about")}
        if type(about.get("generation")) is not int:
            raise damaged(self.folder, "generation is no number")
        return about

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

    def stamp(self, video: str) -> str | None:
        """What a video's tracks were read from, or None if it is not held."""
        with self._read() as database:
            found = database.execute("SELECT stamp FROM videos WHERE path = ?", (video,)).fetchone()
        return None if found is None else str(found[0])

    def put(
        self,
        video: str,
        tracks: Sequence[NewTrack],
        *,
        stamp: str,
        date: float | None,
        source: str,
        content: str | None = None,
    ) -> None:
        """Add a video's tracks, in place of those it had; all of them or, on an error, none.

        Args:
            video: path of the file.
            tracks: any number.
            stamp: tells later whether they would be the same.
            date: of the video, in seconds since 1970.
            source: where their crops are.
            content: of the file, see `content_of`.

        Raises:
            UserError: if the disk is full, or another process writes for too long.
        """
        with self._write() as database:
            erase(database, "video IN (SELECT id FROM videos WHERE path = ?)", video)
            database.execute("DELETE FROM videos WHERE path = ?", (video,))
            row = (video, stamp, date, source, content)
            query = "INSERT INTO videos (path, stamp, date, source, content) VALUES (?, ?, ?, ?, ?)"
            number = database.execute(query, row)
            for track in tracks:
                code = pack_codes(track.code[None]).numpy().tobytes()
                values = (number.lastrowid, track.number, track.start_s, track.end_s, track.person, code)
                added = database.execute(
                    "INSERT INTO tracks (video, number, start_s, end_s, person, code) VALUES (?, ?, ?, ?, ?, ?)", values
                )
                thumbnail = self._own(self.thumbnail(int(added.lastrowid or 0)))
                thumbnail.parent.mkdir(parents=True, exist_ok=True)
                thumbnail.write_bytes(track.thumbnail)

    def records(self) -> dict[str, VideoRecord]:
        """What is recorded of each video, by its path."""
        with self._read() as database:
            found = database.execute("SELECT path, stamp, date, source, content FROM videos ORDER BY path")
            return {row[0]: VideoRecord(*row) for row in found}

    def update_videos(self, changes: Mapping[str, VideoRecord]) -> None:
        """Change what is recorded of videos; their tracks, names and groups stay.

        Args:
            changes: by the path until now. A video may take the path of another, and two may exchange theirs; what is
                under a new path and does not change itself is erased.
        """
        with self._write(codes_change=False) as database:
            for number, path in enumerate(changes):
                database.execute("UPDATE videos SET path = ? WHERE path = ?", (f"\0{number}", path))
            n_erased = 0
            for number, new in enumerate(changes.values()):
                n_erased += erase(database, "video IN (SELECT id FROM videos WHERE path = ?)", new.path)
                database.execute("DELETE FROM videos WHERE path = ?", (new.path,))
                query = "UPDATE videos SET path = ?, stamp = ?, date = ?, source = ?, content = ? WHERE path = ?"
                database.execute(query, (*new, f"\0{number}"))
            if n_erased or "uri" in self.kept:  # Milvus has paths and dates
                database.execute(_NEXT_GENERATION)

    def remove_video(self, video: str) -> int:
        """Erase a video's tracks, codes and thumbnails.

        Returns:
            How many tracks it had.
        """
        with self._write() as database:
            n_tracks = erase(database, "video IN (SELECT id FROM videos WHERE path = ?)", video)
            database.execute("DELETE FROM videos WHERE path = ?", (video,))
        return n_tracks

    def remove_person(self, person: str) -> int:
        """Erase the tracks, codes and thumbnails that bear a name.

        Returns:
            How many tracks there were.
        """
        with self._write() as database:
            return erase(database, "person = ?", person)

    def name(self, tracks: Iterable[int], person: str | None) -> None:
        """Give tracks a person's name, or take it away."""
        with self._write(codes_change=False) as database:
            database.executemany("UPDATE tracks SET person = ? WHERE id = ?", [(person, track) for track in tracks])

    def set_clusters(self, clusters: dict[int, int]) -> None:
        """Set the group of each track, in place of all groups there were."""
        with self._write(codes_change=False) as database:
            database.execute("UPDATE tracks SET cluster = NULL")
            pairs = [(cluster, track) for track, cluster in clusters.items()]
            database.executemany("UPDATE tracks SET cluster = ? WHERE id = ?", pairs)

    def tracks(self, ids: Sequence[int] | None = None, *, video: str | None = None) -> list[Track]:
        """Tracks by their ids, in that order, without those not held; or those of a video, or all, by id."""
        columns = "tracks.id, videos.path, number, start_s, end_s, person, cluster, date, source, content"
        with self._read() as database:
            if ids is None:
                query = (
                    f"SELECT {columns} FROM tracks JOIN videos ON videos.id = video "
                    "WHERE :video IS NULL OR videos.path = :video ORDER BY tracks.id"
                )
                found = database.execute(query, {"video": video}).fetchall()
            else:
                query = (
                    f"SELECT {columns} FROM json_each(?) AS wanted JOIN tracks ON tracks.id = wanted.value "
                    "JOIN videos ON videos.id = video ORDER BY wanted.key"
                )
                found = database.execute(query, (json.dumps(list(ids)),)).fetchall()
        tracks = [Track(*(*row, self.thumbnail(row[0]), content)) for *row, content in found]
        for track in tracks:
            # SQLite keeps whatever kind of value is put into a column.
            if not all(isinstance(value, kinds) for value, kinds in zip(track, _KINDS, strict=True)):
                raise damaged(self.folder, f"what it holds of track {track.id} is of another kind")
        return tracks

    def videos(self) -> list[str]:
        """The paths of all videos, those without tracks too."""
        with self._read() as database:
            return [path for (path,) in database.execute("SELECT path FROM videos ORDER BY path")]

    def thumbnail(self, track: int) -> Path:
        """Where a track's picture is."""
        return self.folder / THUMBNAILS / str(track // _A_FOLDER) / f"{track}.jpg"

    def open_thumbnail(self, track: int) -> Path | None:
        """A track's picture, if it is there and no link out of the index."""
        path = self.thumbnail(track)
        with suppress(UserError):
            return self._own(path) if path.is_file() else None
        return None

    def _own(self, path: Path) -> Path:
        return inside(self.folder, path)

    def _parsed(self, value: str) -> Any:
        try:
            return parse_json(value)
        except (ValueError, TypeError) as error:
            raise damaged(self.folder, "what is recorded of it cannot be read") from error

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
            Matches by distance and id. A distance is the share of bits that differ, 0..1; with scores each bit counts
            by how far its score is from 1/2: another scale a query, but the order, of the asymmetric distance, and
            unlike it comparable from query to query.
        """
        codes, where = self.codes(), None
        if within is not None and within != Within():
            if isinstance(codes, MilvusIndex):
                codes = codes.in_videos(*within)
            else:
                where = torch.from_numpy(self._ids(within))
        if scores is None:
            distances, ids = codes.search(code[None], k, where=where)
            shares = distances[0] / self.n_bits
        else:
            shortlist = max(_SHORTLIST, 2 * k)
            if codes.max_k is not None:
                shortlist = max(k, min(shortlist, codes.max_k))
            distances, ids = codes.search(code[None], k, scores=scores[None], where=where, shortlist=shortlist)
            sure = (2 * scores - 1).abs()
            # A bit that agrees adds (1 - sure)^2 / 4 to the asymmetric distance, one that differs (1 + sure)^2 / 4.
            shares = (distances[0] - ((1 - sure) ** 2).sum() / 4) / sure.sum()
        share = dict(zip(ids[0].tolist(), shares.tolist(), strict=True))
        return [Match(track, share[track.id]) for track in self.tracks(list(share))]

    def code(self, track: int) -> Tensor | None:
        """A track's code, (K,) bool, or None if it is not held."""
        with self._read() as database:
            found = database.execute("SELECT code FROM tracks WHERE id = ?", (track,)).fetchone()
        if found is None:
            return None
        if type(found[0]) is not bytes or len(found[0]) != -(-self.n_bits // 8):
            raise damaged(self.folder, f"the code of track {track} is not of {self.n_bits} bits")
        bits = np.unpackbits(np.frombuffer(found[0], np.uint8), count=self.n_bits)
        return torch.from_numpy(bits.astype(bool))

    def codes(self) -> CodeIndex:
        """The codes of all tracks under their ids, as they are now; not to be changed."""
        return self._current()[1]

    def _current(self) -> tuple[int, CodeIndex]:
        """The codes, and which state of the index they are of."""
        with self._lock:
            generation = int(self.about["generation"])
            if self._codes is None or self._codes[0] != generation:
                self._codes = self._load_codes(generation)
            return self._codes

    @property
    def kept(self) -> dict[str, str]:
        """Where codes are searched: the kind of a `CodeIndex`, or the `MilvusIndex.place` of one."""
        kept = self.about.get("codes", {"kind": "flat"})
        if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
            raise damaged(self.folder, "it does not say where its codes are")
        if kept.get("kind") not in KINDS and set(kept) != {"uri", "collection", "seal"}:
            raise damaged(self.folder, "it does not say where its codes are")
        return kept

    def keep_codes(self, kind: str | None = None, uri: str | None = None) -> None:
        """Search codes in another way from now on, unless it is the way there is.

        Args:
            kind: of `CodeIndex`; None for the one there is, or flat.
            uri: of Milvus, instead; a new collection is made there.

        Raises:
            UserError: if Milvus cannot be reached, there or where the codes were: those are erased.
        """
        before, is_own = self.kept, is_own_place(self.kept)
        if uri is None:
            kept = {"kind": kind or before.get("kind", "flat")}
            if kept == before:
                return
        else:
            if is_own and before["uri"] == checked_uri(uri):
                return
            kept = MilvusIndex(self.n_bits, uri, f"facereel_{uuid.uuid4().hex}").place
        with self._write() as database:
            if is_own:
                MilvusIndex.at(self.n_bits, before).drop()
            if "uri" in before:
                _run(database, NOT_PENDING)
            if uri is not None:
                _run(database, PENDING)
                database.execute("INSERT INTO pending SELECT id FROM tracks")
            database.execute("INSERT OR REPLACE INTO about VALUES ('codes', ?)", (json.dumps(kept),))

    def save_codes(self) -> None:
        """Write the codes as they are now beside the database, from where they are loaded faster; or tell Milvus."""
        generation, codes = self._current()
        folder = self._saved(generation)
        if not isinstance(codes, MilvusIndex) and (codes.build() or not (folder / META_FILE).is_file()):
            try:
                codes.save(self._own(folder))
            except (OSError, RuntimeError) as error:  # the latter is FAISS's
                said = getattr(error, "strerror", None) or error
                raise UserError(f"{said}: {folder}; the index is whole without it") from error
        for old in self.folder.glob("codes-*"):
            number = old.name.removeprefix("codes-")
            if number.isdecimal() and int(number) < generation:  # another process may have saved a later one
                shutil.rmtree(old, ignore_errors=True)

    def _saved(self, generation: int) -> Path:
        return self.folder / f"codes-{generation}"

    def _load_codes(self, generation: int) -> tuple[int, CodeIndex]:
        kept = self.kept
        if "uri" in kept:
            if not is_own_place(kept):
                raise UserError(
                    f"the index in {self.folder} has its codes in Milvus at {kept['uri']}, which somebody else chose. "
                    "Choose where: facereel index --out INDEX --backend faiss, or --backend milvus --uri URI"
                )
            return generation, self._in_milvus(kept)
        with suppress(UserError):  # absent, or half written: it is made from the database
            return generation, CodeIndex.load(self._saved(generation), mapped=True)
        with self._read() as database:
            database.execute("BEGIN")
            (value,) = database.execute("SELECT value FROM about WHERE name = 'generation'").fetchone() or ("0",)
            rows = database.execute("SELECT id, code FROM tracks ORDER BY id").fetchall()
        codes = CodeIndex(self.n_bits, kept["kind"])
        codes.add_packed(*self._unpacked(rows))
        return int(self._parsed(value)), codes

    def _unpacked(self, rows: list[tuple[int, bytes]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        width = -(-self.n_bits // 8)
        if not all(type(code) is bytes and len(code) == width and track >= 0 for track, code in rows):
            raise damaged(self.folder, f"a code is not of {self.n_bits} bits")
        packed = np.frombuffer(b"".join(code for _, code in rows), np.uint8).reshape(len(rows), width)
        return packed, np.array([i for i, _ in rows], np.int64)

    def _in_milvus(self, place: dict[str, str]) -> MilvusIndex:
        """Open the collection, and tell it what changed."""
        codes = MilvusIndex.at(self.n_bits, place)
        self._push(codes)
        if self._codes is None:  # once a process: it may have been emptied, or lost
            with self._write(codes_change=False) as database:
                (n_tracks,) = database.execute("SELECT COUNT(*) FROM tracks").fetchone()
                is_right = n_tracks == len(codes)
                if not is_right:
                    codes.drop()
                    codes = MilvusIndex.at(self.n_bits, place)
                    database.execute("INSERT OR IGNORE INTO pending SELECT id FROM tracks")
            if not is_right:
                self._push(codes)
        return codes

    def _push(self, codes: MilvusIndex) -> None:
        """Tell Milvus which tracks came and which went. Whoever is killed meanwhile tells it the same again."""
        with self._read() as database:
            is_behind = database.execute("SELECT 1 FROM pending").fetchone()
        while is_behind:
            # Nobody else may write, so that no track is added by one who does not know yet that it was erased.
            with self._write(codes_change=False) as database:
                query = (
                    "SELECT track, tracks.id, code, path, date FROM (SELECT track FROM pending ORDER BY track LIMIT ?) "
                    "LEFT JOIN tracks ON tracks.id = track LEFT JOIN videos ON videos.id = video"
                )
                rows = database.execute(query, (_PUSHED_AT_ONCE,)).fetchall()
                held = [row for row in rows if row[1] is not None]
                codes.put_packed(*self._unpacked([row[1:3] for row in held]), [row[3:] for row in held])
                codes.remove(torch.tensor([row[0] for row in rows if row[1] is None], dtype=torch.int64))
                database.executemany("DELETE FROM pending WHERE track = ?", [row[:1] for row in rows])
            is_behind = len(rows) == _PUSHED_AT_ONCE

    def _ids(self, within: Within) -> NDArray[np.int64]:
        conditions: list[str] = []
        values: list[str | float] = []
        if within.folder is not None:
            folder = within.folder.rstrip("/")
            conditions += ["path > ?", "path < ?"]  # which an index answers; 0 is the character after the slash
            values += [f"{folder}/", f"{folder}0"]
        for bound, sign in ((within.since, ">="), (within.until, "<=")):
            if bound is not None:
                conditions.append(f"date {sign} ?")
                values.append(bound)
        videos = f"SELECT id FROM videos WHERE {' AND '.join(conditions)}"
        with self._read() as database:
            found = database.execute(f"SELECT id FROM tracks WHERE video IN ({videos})", values)
            return np.array([i for (i,) in found], np.int64)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with explained(self.folder), closing(connect(self.folder)) as database:
            yield database

    @contextmanager
    def _write(self, codes_change: bool = True) -> Iterator[sqlite3.Connection]:
        """Change the database in one go, and take away the pictures of what was erased once it is."""
        with explained(self.folder), closing(connect(self.folder)) as database:
            database.execute("BEGIN IMMEDIATE")
            with database:
                yield database
                if codes_change:
                    database.execute(_NEXT_GENERATION)
            self._take_away(database)

    def _take_away(self, database: sqlite3.Connection) -> None:
        """Delete erased tracks' pictures, those that a killed process left among them."""
        erased = [track for (track,) in database.execute("SELECT track FROM erased")]
        for track in erased:
            self._own(self.thumbnail(track).parent)
            self.thumbnail(track).unlink(missing_ok=True)
        if erased:
            with database:
                database.executemany("DELETE FROM erased WHERE track = ?", [(track,) for track in erased])


def is_video_file(source: str) -> bool:
    """Whether a video whose tracks were read from there is a file, and not the name of a data set's source."""
    return source.endswith(ENDING)


def _run(database: sqlite3.Connection, script: str) -> None:
    """Statements within the transaction; `executescript` would end it."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            database.execute(statement)
            statement = ""
