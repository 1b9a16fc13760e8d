"""The manifest of a data set: a table with one row for each image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, overload
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.storage.files import atomic_write
from facereel.storage.schema import check_schema

N_LANDMARKS = 5

# Rows that are converted to columns at a time, so that millions of rows are never in memory as Python objects.
_BATCH = 65_536

_NAME = pa.dictionary(pa.int32(), pa.string())
_BOX = ("box_left", "box_top", "box_width", "box_height")
SCHEMA = pa.schema(
    [
        ("person", _NAME),
        ("clip", _NAME),
        ("source", _NAME),
        ("key", pa.string()),
        ("file", pa.string()),
        ("position", pa.int32()),
        *((side, pa.float32()) for side in _BOX),
        ("central_fraction", pa.float32()),
        ("landmarks", pa.list_(pa.float32(), 2 * N_LANDMARKS)),
    ]
)


class Row(NamedTuple):
    """A frame of a clip, or a still."""

    person: str
    clip: str
    """Name of the clip, unique to the person; empty for a still."""
    source: str
    """The source video or photo of the image, unique to the person. Images of one source are never both query and
    gallery."""
    key: str
    """Name of the image in split files: the same on every machine."""
    file: str
    position: int = -1
    """Frame number in a video file, or place in a file of several images; -1 for an image file."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, width and height of the face in pixels; None if unknown."""
    central_fraction: float = 1.0
    """Without a box: the fraction of the image's width and height, around its center, that the face fills."""
    landmarks: tuple[float, ...] | None = None
    """x and y in pixels of five points: the eyes, the nose, the mouth's corners. In each pair the one on the left in
    the image is first. None if unknown."""


class Manifest(Sequence[Row]):
    """Rows stored as columns: a data set of millions of frames opens in a second.

    Args:
        table: table with at least the columns of `SCHEMA`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.unify_dictionaries().combine_chunks()

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Self:
        """Return a manifest of a reader's rows."""
        rows = iter(rows)
        batches = [_to_columns(batch) for batch in iter(lambda: list(islice(rows, _BATCH)), [])]
        return cls(pa.Table.from_batches(batches, SCHEMA))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a Parquet file.

        Args:
            path: the file.

        Returns:
            The manifest, memory-mapped.

        Raises:
            UserError: if the file is missing, damaged, or not a manifest.
        """
        try:
            table = pq.read_table(path, memory_map=True)
        except FileNotFoundError as error:
            raise UserError(f"there is no manifest {path}: write one with facereel prepare") from error
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"cannot read the manifest {path}: {str(error).strip().splitlines()[0]}") from error
        check_schema(path, table, SCHEMA, {*_BOX, "landmarks"})
        return cls(table)

    def save(self, path: Path) -> None:
        """Write a Parquet file atomically to `path`."""
        with atomic_write(path) as temporary:
            pq.write_table(self.table, temporary, compression="zstd")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(self.take(np.arange(len(self))[index]))
        return next(_to_rows(self.table.slice(range(len(self))[index], 1)))

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from _to_rows(batch)

    def take(self, rows: NDArray[np.integer[Any]]) -> "Manifest":
        """Return the rows at the given indices, in that order."""
        return Manifest(self.table.take(pa.array(rows)))

    def names(self, column: str) -> tuple[list[str], NDArray[np.int64]]:
        """Get the distinct names in a dictionary column.

        Args:
            column: name of the column.

        Returns:
            The distinct names, and the (N,) index of each row's name; -1 if null.
        """
        array = self.table[column].combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # without rows
            return [], np.zeros(0, np.int64)
        return array.dictionary.to_pylist(), array.indices.fill_null(-1).to_numpy().astype(np.int64)

    def equals(self, other: "Manifest") -> bool:
        """Return whether another manifest has the same columns and rows."""
        return bool(self._plain().equals(other._plain()))

    def _plain(self) -> pa.Table:
        fields = [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in self.table.schema
        ]
        return self.table.cast(pa.schema(fields))

    def is_still(self) -> NDArray[np.bool_]:
        """Return an (N,) mask that is True for stills."""
        names, clip = self.names("clip")
        return np.array([not name for name in names], np.bool_)[clip]

    def with_columns(self, columns: Mapping[str, Any]) -> "Manifest":
        """Return the same rows with columns added or replaced, given as arrays by name."""
        table = self.table
        for name, values in columns.items():
            place = table.schema.get_field_index(name)
            table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
        return Manifest(table)


def _to_columns(rows: Sequence[Row]) -> pa.RecordBatch:
    *names, file, position, box, central_fraction, landmarks = zip(*rows, strict=True)
    # File systems spell accents in two ways: one person must have one name.
    person, clip, source, key = ([normalize("NFC", name) for name in column] for column in names)
    boxes = np.array([(np.nan,) * 4 if b is None else b for b in box], np.float32)
    unknown = np.array([b is None for b in box])
    arrays = [
        *(pa.array(names).dictionary_encode() for names in (person, clip, source)),
        pa.array(key),
        pa.array(file),
        pa.array(position, pa.int32()),
        *(pa.array(boxes[:, i], mask=unknown) for i in range(4)),
        pa.array(central_fraction, pa.float32()),
        pa.array(landmarks, SCHEMA.field("landmarks").type),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _to_rows(table: pa.Table | pa.RecordBatch) -> Iterator[Row]:
    columns = {name: table[name].to_pylist() for name in SCHEMA.names}
    boxes = zip(*(columns.pop(name) for name in _BOX), strict=True)
    for *known, central_fraction, points, box in zip(*columns.values(), boxes, strict=True):
        landmarks = None if points is None else tuple(points)
        yield Row._make((*known, None if box[0] is None else box, central_fraction, landmarks))
