"""Read a CSV file of millions of rows person by person."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, KeysView, Sequence
from pathlib import Path

from facereel.errors import UserError
from facereel.system.skipped import Skipped


class PeopleTable:
    """The rows of a CSV file, indexed by person.

    The file need not be sorted: one pass records where each person's lines start, eight bytes a row, so memory stays
    small for any number of rows. `pyarrow.csv` would keep all requested cells in memory (0.8 KB a row at its peak), and
    a missing quotation mark would swallow the lines after it.

    Args:
        path: CSV file with a header.
        columns: columns to read; the first has the image's path, which begins with the person.
        skipped: counts rows without a person.

    Raises:
        UserError: if the file cannot be read, or a column is missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], skipped: Skipped) -> None:
        self.path, self._skipped = path, skipped
        self._starts: dict[str, array[int]] = {}
        try:
            with path.open("rb") as file:
                first = file.readline()
                names = [name.strip() for name in _cells(first.removeprefix(b"\xef\xbb\xbf"))]
                absent = [column for column in columns if column not in names]
                if absent:
                    raise UserError(f"{path}: the header has no column {', '.join(absent)}")
                self._places = [names.index(column) for column in columns]
                place, start = self._places[0], len(first)
                for line in file:
                    cells = _cells(line, place + 1)
                    person = slashes(cells[place]).partition("/")[0] if len(cells) > place else ""
                    if person:
                        self._starts.setdefault(person, array("q")).append(start)
                    elif line.strip():
                        self.cannot_read(line)
                    start += len(line)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def people(self) -> KeysView[str]:
        """All people in the file."""
        return self._starts.keys()

    def rows(self, person: str) -> Iterator[list[str]]:
        """Yield the requested cells of each row of a person."""
        with self.path.open("rb") as file:
            for start in self._starts.get(person, ()):
                file.seek(start)
                line = file.readline()
                cells = _cells(line)
                if len(cells) > max(self._places):
                    yield [cells[place] for place in self._places]
                else:
                    self.cannot_read(line)

    def cannot_read(self, line: bytes | str) -> None:
        """Count a line as a row that cannot be read."""
        text = line if isinstance(line, str) else line.decode("utf-8", "replace")
        self._skipped.add("row that cannot be read", f"{self.path.name}: {text.strip()[:60]}")


def slashes(path: str) -> str:
    """Return a path with forward slashes, without surrounding spaces and empty parts."""
    return "/".join([part for part in path.strip().replace("\\", "/").split("/") if part not in ("", ".")])


def numbers(cells: Sequence[str]) -> tuple[float, ...] | None:
    """Return the numbers in cells, or None if one is not a finite number."""
    try:
        values = tuple(map(float, cells))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _cells(line: bytes, limit: int = -1) -> list[str]:
    text = line.decode("utf-8", "replace")
    if '"' not in text:
        return text.split(",", limit)
    try:
        # Line by line: a missing quotation mark must not swallow the lines after it.
        return next(csv.reader([text], skipinitialspace=True))
    except csv.Error:
        return []
