"""`MilvusIndex`: the codes in a collection of a Milvus server, or of milvus-lite, which is a file."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.files import read_json, write_beside
from facereel.functional.asymmetric import byte_tables
from facereel.optional import import_pymilvus
from facereel.retrieval.index import META_FILE, CodeIndex, first_by_distance, table_distances
from facereel.seal import is_sealed, seal

# Milvus answers a search, or a query, with no more.
MOST = 16_384

# Seconds: a call that waits longer fails; a server needs as long as LOADING_S to take up a large collection.
PATIENCE_S = 60.0
_CONNECTING_S = 10.0
_LOADING_S = 1800.0

# Milvus's number of that error.
_NOBODY_ANSWERS = 2

# Sent at once: codes, and queries whose answers come back together.
_AT_ONCE = 5_000
_QUERIES_AT_ONCE = 64
# Asked for beyond the nearest, to see all that tie with the last without asking again.
_MORE = 64
# Of a video without a date; before any that is asked for.
_UNDATED = -1e300
# Milvus's longest text, in bytes.
_LONGEST = 65_535

_Found = tuple[NDArray[np.int64], NDArray[np.int64]]


class MilvusIndex(CodeIndex):
    """The methods of `CodeIndex`, exact and with ties in the same order, on a Milvus collection (BIN_FLAT, Hamming).

    It is made if it is absent; what is added is there at once and stays, without `save`. Two things are Milvus's own:
    it finds at most 16,384 codes a query, and it ranks by scores within a shortlist only.

    Args:
        n_bits: K, the length of a code.
        uri: of a server, as http://localhost:19530, or a file ending in .db for milvus-lite. A password is read from
            the environment variable MILVUS_TOKEN, as USER:PASSWORD.
        collection: its name.

    Raises:
        UserError: if pymilvus is not installed, no server answers, or the collection is not one of ours of K bits.
    """

    max_k = MOST

    def __init__(self, n_bits: int, uri: str, collection: str) -> None:
        self.n_bits, self.kind = n_bits, "flat"
        self.uri, self.collection = checked_uri(uri), collection
        self._where = ""  # an expression of Milvus, if only the codes are meant for which it is true
        self._n_bytes = -(-n_bits // 8)
        with self._explained():
            self._client = self._connect()
            if self._client.has_collection(collection, timeout=PATIENCE_S):
                self._check()
                self._client.load_collection(collection, timeout=_LOADING_S)
            else:
                self._create()

    def _connect(self) -> Any:
        pymilvus = import_pymilvus()
        token = os.environ.get("MILVUS_TOKEN", "")
        options, until = {}, 0.0
        if self.uri.endswith(".db"):
            # It breaks off a connection that is asked now and then whether it lives: ask in 24 days first.
            options["grpc.keepalive_time_ms"] = 2**31 - 1
            until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return pymilvus.MilvusClient(self.uri, token=token, timeout=_CONNECTING_S, grpc_options=options)
            except pymilvus.MilvusException as error:
                # milvus-lite, which starts now, does not answer at once where the processors are busy.
                if error.code != _NOBODY_ANSWERS or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _create(self) -> None:
        pymilvus = import_pymilvus()
        kinds = pymilvus.DataType
        schema = pymilvus.MilvusClient.create_schema(description=self._description)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("video", kinds.VARCHAR, max_length=_LONGEST)
        schema.add_field("date", kinds.DOUBLE)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=8 * self._n_bytes)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        # Strong: what one process adds or erases, the next search of any other knows.
        options = {"schema": schema, "index_params": index, "consistency_level": "Strong"}
        self._client.create_collection(self.collection, timeout=PATIENCE_S, **options)

    @property
    def _description(self) -> str:
        return f"facereel: codes of {self.n_bits} bits"

    def _check(self) -> None:
        found = self._client.describe_collection(self.collection, timeout=PATIENCE_S)
        fields = {field["name"]: field["type"].name for field in found["fields"]}
        expected = {"id": "INT64", "video": "VARCHAR", "date": "DOUBLE", "code": "BINARY_VECTOR"}
        if fields != expected or found["description"] != self._description:
            raise UserError(
                f"the collection {self.collection} at {self.uri} is not one of facereel's with codes of {self.n_bits} "
                f'bits but "{found["description"]}" with {", ".join(fields) or "no fields"}: it is left as it is'
            )

    def __len__(self) -> int:
        with self._explained():
            options = {"filter": self._where, "output_fields": ["count(*)"], "consistency_level": "Strong"}
            return int(self._client.query(self.collection, timeout=PATIENCE_S, **options)[0]["count(*)"])

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) the ids held, ascending."""
        return self._everything()[0]

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) the codes held, in the order of `ids`."""
        return self._everything()[1]

    def _everything(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        ids, codes = [], []
        with self._explained():
            options = {"filter": self._where, "output_fields": ["id", "code"], "batch_size": MOST}
            pages = self._client.query_iterator(self.collection, timeout=PATIENCE_S, **options)
            while page := pages.next():
                ids += [row["id"] for row in page]
                codes += [row["code"][0] for row in page]
            pages.close()
        found = np.array(ids, np.int64)
        order = found.argsort()
        return found[order], np.frombuffer(b"".join(codes), np.uint8).reshape(len(ids), self._n_bytes)[order]

    def put_packed(
        self, codes: NDArray[np.uint8], ids: NDArray[np.int64], videos: Sequence[tuple[str, float | None]]
    ) -> None:
        """Add codes with the path and the date of each one's video, in place of what is held under the same ids.

        Args:
            codes: (N, W) uint8, as `pack_codes` makes them.
            ids: (N,), >= 0.
            videos: N of them.
        """
        rows = [
            {"id": id_, "video": video, "date": _UNDATED if date is None else date, "code": code.tobytes()}
            for id_, code, (video, date) in zip(ids.tolist(), codes, videos, strict=True)
        ]
        with self._explained():
            for start in range(0, len(rows), _AT_ONCE):
                self._client.upsert(self.collection, rows[start : start + _AT_ONCE], timeout=PATIENCE_S)

    def _put(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        self.put_packed(codes, ids, [("", None)] * len(ids))

    def _holds_any(self, ids: NDArray[np.int64]) -> bool:
        return any(len(self._held_among(some)) for some in _parts(ids, MOST))

    def remove(self, ids: Tensor) -> int:
        """Remove ids, those held among them. The bytes are gone once the server compacts its segments.

        Returns:
            How many were removed.
        """
        n_removed = 0
        for some in _parts(np.unique(ids.cpu().numpy()), MOST):
            held = self._held_among(some)
            if len(held):
                with self._explained():
                    self._client.delete(self.collection, ids=held.tolist(), timeout=PATIENCE_S)
            n_removed += len(held)
        return n_removed

    def drop(self) -> None:
        """Remove the collection itself."""
        with self._explained():
            self._client.drop_collection(self.collection, timeout=PATIENCE_S)

    def build(self) -> bool:
        """Nothing: a flat index needs none."""
        return False

    def save(self, folder: str | Path) -> None:
        """Write index.json, which says where the codes are."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with write_beside(folder / META_FILE) as path:
            path.write_text(json.dumps({"n_bits": self.n_bits, **self.place}), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, *, mapped: bool = False) -> MilvusIndex:
        """Open what `save` wrote; a collection that was dropped since is made anew, empty.

        Raises:
            UserError: if the folder holds no such index, or as for a new one.
        """
        path = Path(folder) / META_FILE
        try:
            meta = read_json(path)
            n_bits = int(meta["n_bits"])
            if not is_own_place(meta):
                raise UserError(f"{path} names a Milvus of somebody else's, or none: it is not asked")
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no index: {META_FILE} is absent") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"the index in {folder} is damaged, or none in Milvus: {META_FILE}") from error
        return cls.at(n_bits, meta)

    @classmethod
    def at(cls, n_bits: int, place: dict[str, str]) -> MilvusIndex:
        """Open what `place` told of, which must be `is_own_place`."""
        return cls(n_bits, place["uri"], place["collection"])

    @property
    def place(self) -> dict[str, str]:
        """Its uri and collection, under this user's seal: a stranger's would be sent MILVUS_TOKEN, or name any file."""
        place = {"uri": self.uri, "collection": self.collection}
        return {**place, "seal": seal(json.dumps(place))}

    def in_videos(self, folder: str | None, since: float | None, until: float | None) -> MilvusIndex:
        """To search among codes of videos below a folder and with dates in seconds from one to another, inclusive."""
        parts = []
        if folder is not None:
            low, high = (json.dumps(folder.rstrip("/") + end, ensure_ascii=False) for end in "/0")  # 0 follows /
            parts += [f"video > {low}", f"video < {high}"]
        if since is not None:
            parts.append(f"date >= {since!r}")
        if until is not None:
            parts += [f"date <= {until!r}", f"date > {_UNDATED / 2!r}"]
        return self._that(" and ".join(parts))

    def _only(self, where: Tensor) -> MilvusIndex:
        return self._that(f"id in {where.tolist()}" if len(where) else "id < 0")

    def _that(self, where: str) -> MilvusIndex:
        only = copy(self)
        only._where = _both(self._where, where)
        return only

    def _by_hamming(self, packed: NDArray[np.uint8], k: int) -> Iterator[_Found]:
        for distances, ids in self._nearest(packed, k, all_ties=False):
            yield first_by_distance(distances, ids, k)

    def _by_shortlist(
        self, packed: NDArray[np.uint8], scores: Tensor, k: int, shortlist: int
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        for q, (_, ids) in enumerate(self._nearest(packed, max(k, shortlist), all_ties=True)):
            held, codes = self._codes_of(ids)
            yield first_by_distance(table_distances(byte_tables(scores[q : q + 1]), codes)[0], held, k)

    def _by_scores(self, scores: Tensor, k: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        raise ValueError("Milvus ranks by scores within a shortlist only: shortlist is needed")

    def _nearest(self, packed: NDArray[np.uint8], n: int, *, all_ties: bool) -> Iterator[_Found]:
        """Of each query the n nearest codes, and of those that tie with the last all, or those of the smallest ids."""
        if n > MOST:
            raise UserError(f"Milvus finds at most {MOST:,} tracks a search, not {n:,}: ask for fewer, or use FAISS")
        asked = min(2 * n + _MORE, MOST)
        for start in range(0, len(packed), _QUERIES_AT_ONCE):
            some = packed[start : start + _QUERIES_AT_ONCE]
            for code, (distances, ids) in zip(some, self._search(some, asked), strict=True):
                radius = int(distances[min(n, len(ids)) - 1]) if len(ids) else 0
                if len(ids) < asked or distances[-1] > radius:
                    near = distances <= radius
                    yield distances[near], ids[near]
                    continue
                # More tie than were asked for, and Milvus chose among them as it likes.
                near = distances < radius
                found, n_found = [(distances[near], ids[near])], int(near.sum())
                for tied in self._at(code, radius, radius + 1):
                    found.append(tied)
                    n_found += len(tied[0])
                    if n_found >= n and not all_ties:
                        break
                yield _joined(found)

    def _within(self, code: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        distances, ids = _joined(list(self._at(self._packed(code)[0], 0, radius + 1)))
        order = np.lexsort((ids, distances))
        return torch.from_numpy(distances[order]), torch.from_numpy(ids[order])

    def _at(
        self, code: NDArray[np.uint8], low: int, high: int, first: int = 0, last: int = 2**63 - 1
    ) -> Iterator[_Found]:
        """All codes at distances low <= d < high, in parts of ascending ids, each as small as Milvus can answer."""
        ((distances, ids),) = self._search(code[None], MOST, (low, high), f"id >= {first} and id <= {last}")
        if len(ids) < MOST:
            yield distances, ids
            return
        middle = int(np.partition(ids, MOST // 2)[MOST // 2])
        yield from self._at(code, low, high, first, middle - 1)
        yield from self._at(code, low, high, middle, last)

    def _search(
        self, packed: NDArray[np.uint8], limit: int, between: tuple[int, int] | None = None, also: str = ""
    ) -> Iterator[_Found]:
        """Of each query at most so many codes, nearest first."""
        ranges = {} if between is None else {"range_filter": float(between[0]), "radius": float(between[1])}
        options: dict[str, Any] = {
            "filter": _both(self._where, also),
            "search_params": {"metric_type": "HAMMING", "params": ranges},
            "consistency_level": "Strong",
        }
        with self._explained():
            queries = [code.tobytes() for code in packed]
            found = self._client.search(self.collection, queries, limit=limit, timeout=PATIENCE_S, **options)
        for hits in found:
            distances = np.array([hit["distance"] for hit in hits], np.float64)
            yield distances.astype(np.int64), np.array([hit["id"] for hit in hits], np.int64)

    def _codes_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Ids still held among these, and their codes; milvus-lite cannot give these along with a search."""
        rows = []
        with self._explained():
            for some in _parts(ids, MOST):
                options = {"filter": f"id in {some.tolist()}", "output_fields": ["id", "code"]}
                rows += self._client.query(self.collection, timeout=PATIENCE_S, consistency_level="Strong", **options)
        codes = np.frombuffer(bytearray(b"".join(row["code"][0] for row in rows)), np.uint8)  # torch wants it writable
        return np.array([row["id"] for row in rows], np.int64), codes.reshape(len(rows), self._n_bytes)

    def _held_among(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        options = {"filter": f"id in {ids.tolist()}", "output_fields": ["id"], "consistency_level": "Strong"}
        with self._explained():
            found = self._client.query(self.collection, timeout=PATIENCE_S, **options)
        return np.array([row["id"] for row in found], np.int64)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in a UserError what Milvus complains of."""
        pymilvus = import_pymilvus()
        from grpc import RpcError

        try:
            yield
        except (pymilvus.MilvusException, RpcError, RuntimeError) as error:
            said = str(getattr(error, "message", "") or error).strip().splitlines()[0]
            raise UserError(f"Milvus at {self.uri}: {said}; {_advice(self.uri)}") from error


def is_own_place(place: dict[str, str]) -> bool:
    """Whether it was this user who searched there, see `MilvusIndex.place`."""
    named = {name: place.get(name) for name in ("uri", "collection")}
    return is_sealed(json.dumps(named), place.get("seal"))


def checked_uri(uri: str) -> str:
    """The address of a server as it is, or the absolute path of milvus-lite's file.

    Raises:
        UserError: if it is neither, or holds a password, which would be saved with the index.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "tcp", "unix"):
        if parts.username or parts.password:
            raise UserError("--uri holds a password, which would be saved: put USER:PASSWORD into MILVUS_TOKEN instead")
        try:
            _ = parts.port
        except ValueError as error:
            raise UserError(f"--uri {uri}: {error}") from error
        return uri
    if not uri.endswith(".db"):
        raise UserError(f"--uri {uri}: must be as http://localhost:19530, or a file ending in .db for milvus-lite")
    if not re.fullmatch(r"[\w.-]{1,36}", Path(uri).name, flags=re.ASCII):
        raise UserError(f"--uri {uri}: milvus-lite wants a name of at most 36 letters, digits, or any of . _ -")
    return str(Path(uri).absolute())


def _advice(uri: str) -> str:
    if uri.endswith(".db"):
        return "milvus-lite must be installed (facereel[milvus]), and lets one process at a time use a file"
    return "is the server running, and is the address right?"


def _both(first: str, second: str) -> str:
    return " and ".join(f"({part})" for part in (first, second) if part)


def _joined(found: Sequence[_Found]) -> _Found:
    return cast(_Found, tuple(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _parts(ids: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
