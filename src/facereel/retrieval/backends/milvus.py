"""`MilvusIndex`: the codes in a collection of a Milvus server, or of milvus-lite, which is a file."""

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

# Queries whose answers come back together.
_QUERIES_AT_ONCE = 64


class MilvusIndex:
    """Codes in a Milvus collection (BIN_FLAT, Hamming), searched exactly and with ties as `CodeIndex` has them.

    The collection is made if it is absent; what is added is stored at once. Unlike FAISS, Milvus finds at most 16,384
    codes a query, and ranks by scores only with `rerank_k`.

    Args:
        n_bits: K, the length of a code.
        uri: of a server, as http://localhost:19530, or a file ending in .db for milvus-lite. A password is read from
            the environment variable MILVUS_TOKEN, as USER:PASSWORD.
        collection: its name.

    Raises:
        UserError: if pymilvus is not installed, no server answers, or the collection was not made by facereel for
            codes of K bits.
    """

    max_k: int | None = MOST

    def __init__(self, n_bits: int, uri: str, collection: str) -> None:
        self.n_bits = n_bits
        self.collection = MilvusCollection(n_bits, checked_uri(uri), collection)
        self._where = ""  # an expression of Milvus that is true for the codes of this index; "" for all

    @classmethod
    def at(cls, n_bits: int, place: dict[str, str]) -> Self:
        """Open the collection of a `place`.

        Raises:
            UserError: if this user did not choose it, which `is_own_place` tells, or as for a new one.
        """
        if not is_own_place(place):
            raise UserError(
                f"the codes are in Milvus at {place.get('uri')}, which somebody else chose, so it is not asked. Choose "
                "a backend yourself: facereel index, or TrackIndex.set_backend"
            )
        return cls(n_bits, place["uri"], place["collection"])

    @property
    def place(self) -> dict[str, str]:
        """Its uri and collection, signed: an untrusted one would get MILVUS_TOKEN, or name any file."""
        place = {"uri": self.collection.uri, "collection": self.collection.name}
        return {**place, "seal": sign(json.dumps(place))}

    def __len__(self) -> int:
        return self.collection.count(self._where)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) the ids of the stored codes, ascending."""
        return self.collection.all_codes(self._where)[0]

    @property
    def packed(self) -> NDArray[np.uint8]:
        """(N, ceil(K / 8)) the stored codes, in the order of `ids`."""
        return self.collection.all_codes(self._where)[1]

    def add(self, codes: Tensor, ids: Tensor) -> None:
        """Add codes; see `CodeIndex.add`."""
        self.add_packed(pack(codes, self.n_bits), ids.cpu().numpy().astype(np.int64))

    def add_packed(self, codes: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add codes as `pack_codes` makes them; see `CodeIndex.add_packed`."""
        check_new_ids(ids, len(codes))
        if self.collection.stored(ids):
            raise ValueError("an id is stored already")
        self.collection.upsert(codes, ids, [("", None)] * len(ids))

    def remove(self, ids: Tensor) -> int:
        """Remove the codes with these ids; return how many were stored."""
        return self.collection.delete(ids.cpu().numpy())

    def in_videos(self, folder: str | None, since: float | None, until: float | None) -> Self:
        """The codes of videos below a folder and with dates in seconds from one to another, inclusive."""
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
        """Find the nearest codes of each query; see `CodeIndex.search`.

        Raises:
            ValueError: as there, and for scores without `rerank_k`.
            UserError: for a k over 16,384, or if Milvus fails.
        """
        packed = pack(codes, self.n_bits)
        check_query(codes, k, scores, rerank_k)
        if scores is not None and rerank_k is None:
            raise ValueError("Milvus cannot rank all codes by scores: rerank_k is needed")
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
        """Find every code within a Hamming radius of each query; see `CodeIndex.range_search`."""
        found = []
        for packed in pack(codes, self.n_bits):
            distances, ids = first_by_distance(*_joined(list(self._at(packed, (0, radius + 1)))))
            found.append((torch.from_numpy(distances), torch.from_numpy(ids)))
        return found

    def _nearest(self, packed: NDArray[np.uint8], n: int, *, all_ties: bool) -> Iterator[Found]:
        """For each query the n nearest codes and all that tie with the last, or those of the smallest ids."""
        if n > MOST:
            raise UserError(f"Milvus finds at most {MOST:,} tracks a search, not {n:,}: ask for fewer, or use FAISS")
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
                # More tie than were asked for, and Milvus chose among them in any way.
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
        """All codes at distances low <= d < high, in parts of ascending ids, each as small as Milvus can answer."""
        where = _both(self._where, f"id >= {first} and id <= {last}")
        ((distances, ids),) = self.collection.search(code[None], MOST, where, between)
        if len(ids) < MOST:
            yield distances, ids
            return
        middle = int(np.partition(ids, MOST // 2)[MOST // 2])
        yield from self._at(code, between, first, middle - 1)
        yield from self._at(code, between, middle, last)


def is_own_place(place: dict[str, Any]) -> bool:
    """Whether this user chose a `MilvusIndex.place`."""
    named = {name: place.get(name) for name in ("uri", "collection")}
    return verify(json.dumps(named), place.get("seal"))


def checked_uri(uri: str) -> str:
    """Return the address of a server as it is, or the absolute path of milvus-lite's file.

    Raises:
        UserError: if it is neither, or has a password, which would be saved with the index.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "tcp", "unix"):
        if parts.username or parts.password:
            raise UserError("the Milvus uri has a password, which would be saved: set MILVUS_TOKEN=USER:PASSWORD")
        try:
            _ = parts.port
        except ValueError as error:
            raise UserError(f"Milvus uri {uri}: {error}") from error
        return uri
    if not uri.endswith(".db"):
        raise UserError(f"Milvus uri {uri}: must be as http://localhost:19530, or a file ending in .db for milvus-lite")
    if not re.fullmatch(r"[\w.-]{1,36}", Path(uri).name, flags=re.ASCII):
        raise UserError(f"Milvus uri {uri}: milvus-lite wants a name of at most 36 letters, digits, or any of . _ -")
    return str(Path(uri).absolute())


def _both(first: str, second: str) -> str:
    return " and ".join(f"({part})" for part in (first, second) if part)


def _joined(found: Sequence[Found]) -> Found:
    distances, ids = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(ids)
