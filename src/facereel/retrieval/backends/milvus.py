"""`MilvusIndex`: codes in a collection of a Milvus server, or in a milvus-lite file."""

import json
import re
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.retrieval.backends.milvus_collection import MOST, UNDATED, MilvusCollection
from facereel.retrieval.backends.ranking import (
    MORE,
    Found,
    check_new_ids,
    check_query,
    first_by_distance,
    first_by_scores,
    pack,
    to_tensors,
)
from facereel.storage.signature import sign, verify

# Number of queries in one request.
_QUERIES_AT_ONCE = 64


class MilvusIndex:
    """Index of codes in a Milvus collection (BIN_FLAT, Hamming), with exact search and the tie order of `CodeIndex`.

    The collection is created if it does not exist; added codes are stored immediately. Unlike FAISS, Milvus finds at
    most 16,384 codes per query, and ranks by scores only with `rerank_k`.

    Args:
        n_bits: K, the length of a code in bits.
        uri: address of a server, such as http://localhost:19530, or a file that ends in .db for milvus-lite. A password
            is read from the environment variable MILVUS_TOKEN, as USER:PASSWORD.
        collection: name of the collection.

    Raises:
        UserError: if pymilvus is not installed, no server answers, or the collection was not created by facereel for
            codes of K bits.
    """

    max_k: int | None = MOST

    def __init__(self, n_bits: int, uri: str, collection: str) -> None:
        self.n_bits = n_bits
        self.collection = MilvusCollection(n_bits, checked_uri(uri), collection)
        self._where = ""  # Milvus expression that is true for the codes of this index; "" for all

    @classmethod
    def at(cls, n_bits: int, place: dict[str, str]) -> Self:
        """Open the collection at a `place`.

        Args:
            n_bits: K, the length of a code in bits.
            place: address and collection, with a signature.

        Returns:
            The index.

        Raises:
            UserError: if the place is not signed by this user (see `is_own_place`), or the collection cannot be opened.
        """
        if not is_own_place(place):
            raise UserError(
                f"the codes are in Milvus at {place.get('uri')}, an address that another user chose. It is not "
                "contacted. Choose your own backend with facereel index or TrackIndex.set_backend"
            )
        return cls(n_bits, place["uri"], place["collection"])

    @property
    def place(self) -> dict[str, str]:
        """Address and collection with a signature: an untrusted address could receive MILVUS_TOKEN, or be any file."""
        place = {"uri": self.collection.uri, "collection": self.collection.name}
        return {**place, "seal": sign(json.dumps(place))}

    def __len__(self) -> int:
        return self.collection.count(self._where)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64 ids of the stored codes in ascending order."""
        return self.collection.all_codes(self._where)[0]

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) uint8 packed codes, in the order of `ids`."""
        return self.collection.all_codes(self._where)[1]

    def add(self, codes: Tensor, ids: Tensor) -> None:
        """Add codes; see `CodeIndex.add`.

        Args:
            codes: (N, K) bool.
            ids: (N,) int64, non-negative, unique and not yet stored.
        """
        self.add_packed(pack(codes, self.n_bits), ids.cpu().numpy().astype(np.int64))

    def add_packed(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add packed codes; see `CodeIndex.add_packed`.

        Args:
            codes: (N, ceil(K / 8)) uint8, packed by `pack_codes`.
            ids: (N,) int64, non-negative, unique and not yet stored.

        Raises:
            ValueError: if a shape is wrong, or an id is negative, a duplicate or already stored.
        """
        check_new_ids(ids, len(codes))
        if stored := self.collection.stored(ids):
            raise ValueError(f"id {stored[0]} is already stored")
        self.collection.upsert(codes, ids, [("", None)] * len(ids))

    def remove(self, ids: Tensor) -> int:
        """Remove codes by id.

        Args:
            ids: (N,) int64; ids that are not stored are ignored.

        Returns:
            The number of removed codes.
        """
        return self.collection.delete(ids.cpu().numpy())

    def in_videos(self, folder: str | None, since: float | None, until: float | None) -> Self:
        """Select the codes of some videos.

        Args:
            folder: folder of the videos; None selects all.
            since: earliest date in seconds since 1970, inclusive; None means no limit.
            until: latest date in seconds since 1970, inclusive; None means no limit.

        Returns:
            An index of these codes in the same collection.
        """
        parts = []
        if folder is not None:
            low, high = (json.dumps(folder.rstrip("/") + end, ensure_ascii=False) for end in "/0")  # 0 follows /
            parts += [f"video > {low}", f"video < {high}"]
        if since is not None:
            parts.append(f"date >= {since!r}")
        if until is not None:
            parts += [f"date <= {until!r}", f"date > {UNDATED / 2!r}"]
        return self._subset(" and ".join(parts))

    def _subset(self, where: str) -> Self:
        subset = copy(self)
        subset._where = _both(self._where, where)
        return subset

    def search(
        self,
        codes: Tensor,
        k: int,
        *,
        scores: Tensor | None = None,
        subset_ids: Tensor | None = None,
        rerank_k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest codes to each query; see `CodeIndex.search`.

        Args:
            codes: (Q, K) bool, the queries.
            k: number of codes to find, at most 16,384; fewer are returned if fewer are stored.
            scores: (Q, K) float in 0..1, the real-valued outputs of the queries.
            subset_ids: (M,) int64 ids to search in; None searches all.
            rerank_k: number of codes to rank by scores; required with scores.

        Returns:
            (Q, k') distances and (Q, k') int64 ids.

        Raises:
            ValueError: if an argument is invalid, or scores are given without `rerank_k`.
            UserError: if k is over 16,384, or Milvus fails.
        """
        packed = pack(codes, self.n_bits)
        check_query(codes, k, scores, rerank_k)
        if scores is not None and rerank_k is None:
            raise ValueError("Milvus cannot rank all codes by scores: set rerank_k")
        index = self
        if subset_ids is not None:
            index = self._subset(f"id in {subset_ids.tolist()}" if len(subset_ids) else "id < 0")
        k = min(k, len(index))
        found: list[Found] = []
        if k > 0 and scores is None:
            found = [first_by_distance(*near, k) for near in index._nearest(packed, k, all_ties=False)]
        elif k > 0 and scores is not None:
            candidates = index._nearest(packed, max(k, rerank_k or 0), all_ties=True)
            for own, (_, ids) in zip(scores, candidates, strict=True):
                stored, its_codes = self.collection.codes_of(ids)
                found.append(first_by_scores(own, its_codes, stored, k))
        # Other processes may have removed some since they were counted.
        return to_tensors(found, len(codes), k, torch.int64 if scores is None else torch.float32)

    def range_search(self, codes: Tensor, radius: int) -> list[tuple[Tensor, Tensor]]:
        """Find every code within a Hamming radius of each query; see `CodeIndex.range_search`.

        Args:
            codes: (Q, K) bool, the queries.
            radius: maximum distance in bits, inclusive.

        Returns:
            For each query (M,) int64 distances in ascending order, and (M,) int64 ids, ascending among ties.
        """
        found = []
        for packed in pack(codes, self.n_bits):
            distances, ids = first_by_distance(*_joined(list(self._at(packed, (0, radius + 1)))))
            found.append((torch.from_numpy(distances), torch.from_numpy(ids)))
        return found

    def _nearest(self, packed: NDArray[np.uint8], n: int, *, all_ties: bool) -> Iterator[Found]:
        """Yield for each query the n nearest codes and all that tie with the last, or those with the smallest ids.

        Raises:
            UserError: if n is over 16,384.
        """
        if n > MOST:
            raise UserError(f"Milvus finds at most {MOST:,} tracks per search, not {n:,}: request fewer, or use FAISS")
        asked = min(2 * n + MORE, MOST)
        for start in range(0, len(packed), _QUERIES_AT_ONCE):
            some = packed[start : start + _QUERIES_AT_ONCE]
            found = self.collection.search(some, asked, self._where)
            for code, (distances, ids) in zip(some, found, strict=True):
                radius = int(distances[min(n, len(ids)) - 1]) if len(ids) else 0
                if len(ids) < asked or distances[-1] > radius:
                    near = distances <= radius
                    yield distances[near], ids[near]
                    continue
                # More codes tie than were requested, and Milvus chose among them arbitrarily.
                near = distances < radius
                parts, n_found = [(distances[near], ids[near])], int(near.sum())
                for tied in self._at(code, (radius, radius + 1)):
                    parts.append(tied)
                    n_found += len(tied[0])
                    if n_found >= n and not all_ties:
                        break
                yield _joined(parts)

    def _at(
        self, code: NDArray[np.uint8], between: tuple[int, int], first: int = 0, last: int = 2**63 - 1
    ) -> Iterator[Found]:
        """Yield all codes at distances low <= d < high, in parts of ascending ids that Milvus can return at once."""
        where = _both(self._where, f"id >= {first} and id <= {last}")
        ((distances, ids),) = self.collection.search(code[None], MOST, where, between)
        if len(ids) < MOST:
            yield distances, ids
            return
        middle = int(np.partition(ids, MOST // 2)[MOST // 2])
        yield from self._at(code, between, first, middle - 1)
        yield from self._at(code, between, middle, last)


def is_own_place(place: dict[str, Any]) -> bool:
    """Return whether a `MilvusIndex.place` is signed by this user."""
    named = {name: place.get(name) for name in ("uri", "collection")}
    return verify(json.dumps(named), place.get("seal"))


def checked_uri(uri: str) -> str:
    """Return the unchanged address of a server, or the absolute path of a milvus-lite file.

    Args:
        uri: the address or the file.

    Raises:
        UserError: if it is neither, or has a password, which would be saved with the index.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "tcp", "unix"):
        if parts.username or parts.password:
            raise UserError(
                "the Milvus uri has a password, which would be saved: set MILVUS_TOKEN=USER:PASSWORD instead"
            )
        try:
            _ = parts.port
        except ValueError as error:
            raise UserError(f"Milvus uri {uri}: {error}") from error
        return uri
    if not uri.endswith(".db"):
        raise UserError(
            f"Milvus uri {uri}: must be an address such as http://localhost:19530, or a .db file for milvus-lite"
        )
    if not re.fullmatch(r"[\w.-]{1,36}", Path(uri).name, flags=re.ASCII):
        raise UserError(
            f"Milvus uri {uri}: a milvus-lite file name must have at most 36 characters: ASCII letters, digits, . _ -"
        )
    return str(Path(uri).absolute())


def _both(first: str, second: str) -> str:
    return " and ".join(f"({part})" for part in (first, second) if part)


def _joined(found: Sequence[Found]) -> Found:
    distances, ids = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(ids)
