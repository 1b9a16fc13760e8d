"""`MilvusCollection`: store and query codes in Milvus, with one-line errors."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.retrieval.backends.ranking import Found
from facereel.system.optional import import_pymilvus

# Maximum number of results of a search or query in Milvus.
MOST = 16_384

# Timeouts in seconds for a call, for a connection, and for loading a large collection.
_PATIENCE_S = 60.0
_CONNECTING_S = 10.0
_LOADING_S = 1800.0

# Milvus's error codes if no server answers, and if a collection is not loaded, as after a restart of the server.
_NO_ANSWER, _NOT_LOADED = 2, 101
# Number of codes in one request.
_AT_ONCE = 5_000
# The date of a video without a date, earlier than any searched date.
UNDATED = -1e300
# Maximum length of a text in Milvus, in bytes.
_LONGEST = 65_535

# With strong consistency, a search sees all earlier changes by other processes.
_STRONG = {"consistency_level": "Strong", "timeout": _PATIENCE_S}


class MilvusCollection:
    """Packed codes with ids, paths and dates of their videos in a collection, created if it does not exist.

    Every method raises a `UserError` if Milvus fails.

    Args:
        n_bits: K, the length of a code in bits.
        uri: address of a server, or path of a milvus-lite file, from `checked_uri`.
        name: name of the collection.

    Raises:
        UserError: if pymilvus is not installed, no server answers, or the collection was not created by facereel for
            codes of K bits.
    """

    def __init__(self, n_bits: int, uri: str, name: str) -> None:
        self.n_bits, self.uri, self.name = n_bits, uri, name
        self._n_bytes = -(-n_bits // 8)
        self._description = f"facereel: codes of {n_bits} bits"
        with self._explained():
            self.client = self._connect()
            if self.client.has_collection(name, timeout=_PATIENCE_S):
                self._check()
                self.client.load_collection(name, timeout=_LOADING_S)
            else:
                self._create()

    def _connect(self) -> Any:
        pymilvus = import_pymilvus()
        token = os.environ.get("MILVUS_TOKEN", "")
        options, until = {}, 0.0
        if self.uri.endswith(".db"):
            # milvus-lite closes a connection with frequent keepalive pings: send the first one after 24 days.
            options["grpc.keepalive_time_ms"] = 2**31 - 1
            until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return pymilvus.MilvusClient(self.uri, token=token, timeout=_CONNECTING_S, grpc_options=options)
            except pymilvus.MilvusException as error:
                # milvus-lite is just starting, and may not answer immediately on a busy machine.
                if error.code != _NO_ANSWER or time.monotonic() > until:
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
        index = self.client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self.client.create_collection(self.name, schema=schema, index_params=index, **_STRONG)

    def _check(self) -> None:
        found = self.client.describe_collection(self.name, timeout=_PATIENCE_S)
        fields = {field["name"]: field["type"].name for field in found["fields"]}
        expected = {"id": "INT64", "video": "VARCHAR", "date": "DOUBLE", "code": "BINARY_VECTOR"}
        if fields != expected or found["description"] != self._description:
            raise UserError(
                f"the collection {self.name} at {self.uri} was not created by facereel for codes of {self.n_bits} "
                f'bits: it is "{found["description"]}" with {", ".join(fields) or "no fields"}. It was not changed; '
                "choose another collection"
            )

    def count(self, where: str) -> int:
        """Return the number of codes for which an expression is true; "" counts all."""
        return int(self._query(where, "count(*)")[0]["count(*)"])

    def stored(self, ids: NDArray[np.int64]) -> list[int]:
        """Return the ids that have a code, of the given (N,) ids."""
        return [row["id"] for some in _parts(ids, MOST) for row in self._query(f"id in {some.tolist()}", "id")]

    def codes_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the (M,) ids that have a code, of the given ids, in any order, and their (M, W) codes."""
        # milvus-lite cannot return codes with a search.
        rows = [row for some in _parts(ids, MOST) for row in self._query(f"id in {some.tolist()}", "id", "code")]
        return self._columns(rows)

    def all_codes(self, where: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the (N,) ids for which an expression is true, in ascending order, and their (N, W) codes."""
        rows: list[dict[str, Any]] = []
        options = {"filter": where, "output_fields": ["id", "code"], "batch_size": MOST}
        with self._explained():
            pages = self._read("query_iterator", timeout=_PATIENCE_S, **options)
            while page := pages.next():
                rows += page
            pages.close()
        ids, codes = self._columns(rows)
        order = ids.argsort()
        return ids[order], codes[order]

    def _columns(self, rows: list[dict[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        codes = np.frombuffer(bytearray(b"".join(row["code"][0] for row in rows)), np.uint8)  # writable for torch
        return np.array([row["id"] for row in rows], np.int64), codes.reshape(len(rows), self._n_bytes)

    def _query(self, where: str, *fields: str) -> Any:
        with self._explained():
            return self._read("query", filter=where, output_fields=list(fields), **_STRONG)

    def _read(self, method: str, **options: Any) -> Any:
        """Call a method of the client that needs the collection loaded, and load it first if it is not."""
        call = getattr(self.client, method)
        try:
            return call(self.name, **options)
        except import_pymilvus().MilvusException as error:
            if error.code != _NOT_LOADED:
                raise
            self.client.load_collection(self.name, timeout=_LOADING_S)
            return call(self.name, **options)

    def upsert(
        self, codes: NDArray[np.uint8], ids: NDArray[np.int64], videos: Sequence[tuple[str, float | None]]
    ) -> None:
        """Add codes, or replace those with the same ids.

        Args:
            codes: (N, W) uint8 packed codes.
            ids: (N,) int64.
            videos: (N,) path and date of each code's video.
        """
        rows = [
            {"id": id_, "video": video, "date": UNDATED if date is None else date, "code": code.tobytes()}
            for id_, code, (video, date) in zip(ids.tolist(), codes, videos, strict=True)
        ]
        with self._explained():
            for start in range(0, len(rows), _AT_ONCE):
                self.client.upsert(self.name, rows[start : start + _AT_ONCE], timeout=_PATIENCE_S)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Delete codes.

        Args:
            ids: (N,) int64; ids that are not stored are ignored.

        Returns:
            The number of deleted codes.
        """
        n_deleted = 0
        for some in _parts(np.unique(ids), MOST):
            if stored := self.stored(some):
                with self._explained():
                    self.client.delete(self.name, ids=stored, timeout=_PATIENCE_S)
            n_deleted += len(stored)
        return n_deleted

    def drop(self) -> None:
        """Delete the collection."""
        with self._explained():
            self.client.drop_collection(self.name, timeout=_PATIENCE_S)

    def clear(self) -> None:
        """Delete the collection and create it again, empty."""
        self.drop()
        with self._explained():
            self._create()

    def search(
        self, packed: NDArray[np.uint8], limit: int, where: str, between: tuple[int, int] | None = None
    ) -> Iterator[Found]:
        """Find the nearest codes to each query.

        Args:
            packed: (Q, W) uint8, the queries.
            limit: maximum number of codes per query.
            where: expression that must be true for a code; "" allows all.
            between: low and high; only codes at distances low <= d < high are found.

        Yields:
            For each query, distances and ids in Milvus's order.
        """
        ranges = {} if between is None else {"range_filter": float(between[0]), "radius": float(between[1])}
        options = {"filter": where, "search_params": {"metric_type": "HAMMING", "params": ranges}, **_STRONG}
        with self._explained():
            found = self._read("search", data=[code.tobytes() for code in packed], limit=limit, **options)
        for hits in found:
            distances = np.array([hit["distance"] for hit in hits], np.float64)
            yield distances.astype(np.int64), np.array([hit["id"] for hit in hits], np.int64)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert Milvus's errors in the block to a one-line error.

        Raises:
            UserError: if Milvus fails in the block.
        """
        pymilvus = import_pymilvus()
        from grpc import RpcError, StatusCode

        try:
            yield
        except (pymilvus.MilvusException, RpcError, RuntimeError) as error:
            cause = error if isinstance(error, RpcError) else error.__cause__
            if isinstance(cause, RpcError) and cause.code() is StatusCode.UNAUTHENTICATED:
                wrong = "refused the user or password in" if os.environ.get("MILVUS_TOKEN") else "needs a password in"
                raise UserError(
                    f"Milvus at {self.uri} {wrong} the environment variable MILVUS_TOKEN: set it to USER:PASSWORD"
                ) from error
            message = error.details() if isinstance(error, RpcError) else getattr(error, "message", "")
            reason = str(message or error).strip().splitlines()[0]
            advice = "check that the server is running and that the address is correct"
            if self.uri.endswith(".db"):
                advice = (
                    "milvus-lite must be installed (facereel[milvus]), and only one process at a time can use a file"
                )
            raise UserError(f"Milvus at {self.uri}: {reason}; {advice}") from error


def _parts(ids: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
