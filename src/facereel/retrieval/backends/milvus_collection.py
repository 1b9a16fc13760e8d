"""`MilvusCollection`: what is stored in and asked of Milvus, with its errors in one line."""

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

# Milvus answers a search, or a query, with no more.
MOST = 16_384

# Seconds: a call that waits longer fails; a server needs as long as LOADING_S to load a large collection.
_PATIENCE_S = 60.0
_CONNECTING_S = 10.0
_LOADING_S = 1800.0

# Milvus's code of the error that no server answers.
_NO_ANSWER = 2
# Codes sent at once.
_AT_ONCE = 5_000
# The date of a video without one; before any that is searched for.
UNDATED = -1e300
# Milvus's longest text, in bytes.
_LONGEST = 65_535

# Strong: what one process adds or erases, the next search of any other finds.
_STRONG = {"consistency_level": "Strong", "timeout": _PATIENCE_S}


class MilvusCollection:
    """Packed codes with ids, paths and dates of their videos in a collection, which is made if it is absent.

    Args:
        n_bits: K, the length of a code.
        uri: of a server, or the path of a file of milvus-lite, as `checked_uri` returns it.
        name: of the collection.

    Raises:
        UserError: if pymilvus is not installed, no server answers, or the collection was not made by facereel for
            codes of K bits. So does every method if Milvus fails.
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
            # milvus-lite closes a connection that is asked now and then whether it lives: ask in 24 days first.
            options["grpc.keepalive_time_ms"] = 2**31 - 1
            until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return pymilvus.MilvusClient(self.uri, token=token, timeout=_CONNECTING_S, grpc_options=options)
            except pymilvus.MilvusException as error:
                # milvus-lite, which starts now, does not answer at once where the processors are busy.
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
                f"the collection {self.name} at {self.uri} is not one of facereel's with codes of {self.n_bits} "
                f'bits but "{found["description"]}" with {", ".join(fields) or "no fields"}: it is left as it is'
            )

    def count(self, where: str) -> int:
        """How many codes an expression is true for; "" for all."""
        return int(self._query(where, "count(*)")[0]["count(*)"])

    def stored(self, ids: NDArray[np.int64]) -> list[int]:
        """Those of the ids that have a code."""
        return [row["id"] for some in _parts(ids, MOST) for row in self._query(f"id in {some.tolist()}", "id")]

    def codes_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Those of the ids that have a code, in any order, and their codes (N, W)."""
        # milvus-lite cannot return codes with a search.
        rows = [row for some in _parts(ids, MOST) for row in self._query(f"id in {some.tolist()}", "id", "code")]
        return self._columns(rows)

    def all_codes(self, where: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The ids for which an expression is true, ascending, and their codes (N, W)."""
        rows: list[dict[str, Any]] = []
        options = {"filter": where, "output_fields": ["id", "code"], "batch_size": MOST}
        with self._explained():
            pages = self.client.query_iterator(self.name, timeout=_PATIENCE_S, **options)
            while page := pages.next():
                rows += page
            pages.close()
        ids, codes = self._columns(rows)
        order = ids.argsort()
        return ids[order], codes[order]

    def _columns(self, rows: list[dict[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        codes = np.frombuffer(bytearray(b"".join(row["code"][0] for row in rows)), np.uint8)  # writable, as torch wants
        return np.array([row["id"] for row in rows], np.int64), codes.reshape(len(rows), self._n_bytes)

    def _query(self, where: str, *fields: str) -> Any:
        with self._explained():
            return self.client.query(self.name, filter=where, output_fields=list(fields), **_STRONG)

    def upsert(
        self, codes: NDArray[np.uint8], ids: NDArray[np.int64], videos: Sequence[tuple[str, float | None]]
    ) -> None:
        """Store (N, W) codes under (N,) ids, with the path and date of each one's video, in place of what is there."""
        rows = [
            {"id": id_, "video": video, "date": UNDATED if date is None else date, "code": code.tobytes()}
            for id_, code, (video, date) in zip(ids.tolist(), codes, videos, strict=True)
        ]
        with self._explained():
            for start in range(0, len(rows), _AT_ONCE):
                self.client.upsert(self.name, rows[start : start + _AT_ONCE], timeout=_PATIENCE_S)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Delete the codes of these ids; return how many there were."""
        n_deleted = 0
        for some in _parts(np.unique(ids), MOST):
            if stored := self.stored(some):
                with self._explained():
                    self.client.delete(self.name, ids=stored, timeout=_PATIENCE_S)
            n_deleted += len(stored)
        return n_deleted

    def drop(self) -> None:
        """Delete the collection itself."""
        with self._explained():
            self.client.drop_collection(self.name, timeout=_PATIENCE_S)

    def clear(self) -> None:
        """Delete the collection and make it again, empty."""
        self.drop()
        with self._explained():
            self._create()

    def search(
        self, packed: NDArray[np.uint8], limit: int, where: str, between: tuple[int, int] | None = None
    ) -> Iterator[Found]:
        """For each query distances and ids of the nearest codes, in Milvus's order.

        Args:
            packed: (Q, W) uint8, the queries.
            limit: at most this many codes each.
            where: an expression that must be true for a code; "" for all.
            between: only codes at distances low <= d < high.
        """
        ranges = {} if between is None else {"range_filter": float(between[0]), "radius": float(between[1])}
        options = {"filter": where, "search_params": {"metric_type": "HAMMING", "params": ranges}, **_STRONG}
        with self._explained():
            found = self.client.search(self.name, [code.tobytes() for code in packed], limit=limit, **options)
        for hits in found:
            distances = np.array([hit["distance"] for hit in hits], np.float64)
            yield distances.astype(np.int64), np.array([hit["id"] for hit in hits], np.int64)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise Milvus's errors as a UserError of one line."""
        pymilvus = import_pymilvus()
        from grpc import RpcError

        try:
            yield
        except (pymilvus.MilvusException, RpcError, RuntimeError) as error:
            reason = str(getattr(error, "message", "") or error).strip().splitlines()[0]
            advice = "is the server running, and is the address right?"
            if self.uri.endswith(".db"):
                advice = "milvus-lite must be installed (facereel[milvus]), and lets one process at a time use a file"
            raise UserError(f"Milvus at {self.uri}: {reason}; {advice}") from error


def _parts(ids: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
