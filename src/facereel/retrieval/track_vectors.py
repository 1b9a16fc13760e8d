"""`TrackVectors`: codes and features of single tracks of an index."""

import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.errors import UserError
from facereel.functional import unpack_codes
from facereel.retrieval.track_database import TrackDatabase
from facereel.retrieval.track_features import read_features


class TrackVectors:
    """Read codes and features of tracks. The current ones are read each time: another process may change them.

    Args:
        database: database of an index.
    """

    def __init__(self, database: TrackDatabase) -> None:
        self._database = database

    def code(self, track: int) -> Tensor | None:
        """Return a track's (K,) bool code, or None if the track is not in the index."""
        found, packed, n_bits = self._packed([track])
        return unpack_codes(torch.from_numpy(packed.copy()), n_bits)[0] if len(found) else None

    def features(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Read the features of tracks of an index with features.

        Args:
            ids: ids of N tracks, all in the index.

        Returns:
            (N, D) features of length 1.

        Raises:
            UserError: if a track is not in the index, or the index is damaged.
        """
        known, features = read_features(self._database, ids)
        if len(known) < len(ids):
            missing = next(id_ for id_ in ids if id_ not in set(known))
            raise UserError(f"track {missing} is not in the index in {self._database.folder}")
        return features.double().numpy()

    def find_features(self, ids: Sequence[int]) -> dict[int, Tensor]:
        """Read the features of tracks of an index with features, as `features` does, and skip unknown tracks.

        Args:
            ids: ids of tracks.

        Returns:
            The (D,) float32 features by id.
        """
        return dict(zip(*read_features(self._database, ids), strict=True))

    def unit(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Read unit vectors of tracks: their features, or the signs of their bits.

        Args:
            ids: ids of N tracks, all in the index.

        Returns:
            (N, D) of length 1; the distance of two tracks is half of 1 minus their dot product.
        """
        if self._database.about().get("features") is True:
            return self.features(ids)
        _, packed, n_bits = self._packed(ids)
        bits = np.unpackbits(packed, axis=1, count=n_bits)
        return (2.0 * bits - 1) / np.sqrt(n_bits)

    def _packed(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8], int]:
        """Return the ids of the tracks in the index, their packed codes, and the length of a code."""
        query = "SELECT tracks.id, code FROM json_each(?) AS ids JOIN tracks ON tracks.id = ids.value ORDER BY ids.key"
        with self._database.read() as connection:
            connection.execute("BEGIN")
            n_bits = int(self._database.about_within(connection)["n_bits"])
            rows = connection.execute(query, (json.dumps(list(ids)),)).fetchall()
        packed, found = self._database.unpack(rows, n_bits)
        return found, packed, n_bits
