"""Valid files changed by hypothesis: as bytes, and as what they are, so that readers are led further in."""

import copy
import io
import json
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st

# As of other modules and as of ours, which another part expects.
CLASSES = ("os.system", "torch.nn.Linear", *(f"facereel.models.{n}" for n in ("LshHead", "MaxPooling", "RotationHead")))
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(("..", "../../outside", "~", "nan", "1e999", "9" * 5000, "a" * 300, "0x10", "[]", "{}", *CLASSES)),
)
NUMBERS = st.one_of(st.integers(), st.sampled_from((-1, 0, 1, 255, 2**16, 2**31, 2**62, 10**30)), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.builds(lambda name: {"_target_": name}, TEXTS))


def changed_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """A few stretches left out or overwritten, many of them near the start or the end."""
    near = st.integers(0, 255).map(lambda n: min(n, len(content)))
    place = st.one_of(st.integers(0, len(content)), near, near.map(lambda n: len(content) - n))
    length = st.one_of(st.integers(0, 8), st.sampled_from((32, 500, len(content))))
    filler = st.one_of(st.binary(max_size=8), st.sampled_from((b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 8, b'"')))

    def replaced(steps: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(content)
        for at, n, put in steps:
            data[at : at + n] = put
        return bytes(data)

    return st.lists(st.tuples(place, length, filler), min_size=1, max_size=4).map(replaced)


def changed_words(content: bytes) -> st.SearchStrategy[bytes]:
    """Some words of a text replaced."""
    parts = re.split(r"([,\\/\n. ])", content.decode())
    words = st.one_of(TEXTS, NUMBERS.map(str))

    def replaced(steps: list[tuple[int, str]]) -> bytes:
        found = {**dict(enumerate(parts)), **dict(steps)}
        return "".join(found.values()).encode(errors="surrogatepass")

    return st.lists(st.tuples(st.integers(0, len(parts) - 1), words), min_size=1, max_size=5).map(replaced)


def changed_content(content: Any) -> st.SearchStrategy[Any]:
    """Some of the values within lists and dictionaries replaced or left out."""
    step = st.tuples(st.sampled_from(list(_places(content))), st.one_of(VALUES, st.just(...)))

    def replaced(steps: list[tuple[tuple[Any, ...], Any]]) -> Any:
        result = [copy.deepcopy(content)]
        for place, value in steps:
            with suppress(KeyError, IndexError, TypeError):  # an earlier step took the place away
                inner, keys = result, (0, *place)
                for key in keys[:-1]:
                    inner = inner[key]
                if value is ...:
                    del inner[keys[-1]]
                else:
                    inner[keys[-1]] = value
        return result[0] if result else {}

    return st.lists(step, min_size=1, max_size=2).map(replaced)


def _places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    keys: Iterable[Any] = (
        content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    )
    for key in keys:
        yield from _places(content[key], (*at, key))


def changed_json(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with values replaced."""
    return changed_content(json.loads(content)).map(lambda found: json.dumps(found).encode())


def changed_tensors(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with its header's values replaced."""
    (length,) = struct.unpack("<Q", content[:8])

    def joined(found: Any) -> bytes:
        text = json.dumps(found).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return changed_content(json.loads(content[8 : 8 + length])).map(joined)


def changed_checkpoint(content: bytes) -> st.SearchStrategy[bytes]:
    """A torch checkpoint with values replaced."""

    def saved(found: Any) -> bytes:
        file = io.BytesIO()
        torch.save(found, file)
        return file.getvalue()

    return changed_content(torch.load(io.BytesIO(content), weights_only=True)).map(saved)


def changed_table(content: bytes) -> st.SearchStrategy[bytes]:
    """A Parquet file with a column replaced or left out, rows left out, or its own record's values replaced."""
    table = pq.read_table(io.BytesIO(content))
    n = table.num_rows
    cells = (None, "x", b"\xff\xd8", -1, 2**62, float("nan"), 0.5, [[b"x"]])
    column = st.tuples(st.integers(0, table.num_columns - 1), st.sampled_from((*cells, ...)))
    record = changed_content(json.loads((table.schema.metadata or {}).get(b"facereel", b"{}")))

    def with_column(step: tuple[int, Any]) -> Any:
        place, cell = step
        if cell is ...:
            return table.remove_column(place)
        field = table.schema.field(place)
        return table.set_column(place, field.name, pa.array([cell] * n, field.type if cell is None else None))

    changed = st.one_of(
        column.map(with_column),
        st.integers(0, n).map(table.slice),
        record.map(lambda found: table.replace_schema_metadata({b"facereel": json.dumps(found).encode()})),
    )

    def written(found: Any) -> bytes:
        file = io.BytesIO()
        pq.write_table(found, file)
        return file.getvalue()

    return changed.map(written)


def changed_database(content: bytes) -> st.SearchStrategy[bytes]:
    """An SQLite database with cells replaced or rows left out."""
    cells: list[tuple[str, str, str, Any]] = []
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content)
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = database.execute(f"PRAGMA table_info({table})").fetchall()
            for key in [column[1] for column in columns if column[5]]:  # the primary one
                rows = database.execute(f"SELECT {key} FROM {table}").fetchall()
                cells += [(table, column[1], key, row) for (row,) in rows for column in columns]
    small = st.integers(-(2**63), 2**63 - 1)
    values = st.one_of(st.none(), small, st.floats(), st.text(max_size=9), st.binary(max_size=9), st.just("[]"))

    def edited(steps: list[tuple[tuple[str, str, str, Any], Any]]) -> bytes:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
            database.deserialize(content)
            for (table, column, key, row), value in steps:
                with suppress(sqlite3.Error):  # the database itself refuses it
                    if value is ...:
                        database.execute(f"DELETE FROM {table} WHERE {key} = ?", (row,))
                    else:
                        database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, row))
            return database.serialize()

    step = st.tuples(st.sampled_from(cells), st.one_of(values, values, values, st.just(...)))
    return st.lists(step, min_size=1, max_size=2).map(edited)


CHANGES = {
    ".json": changed_json,
    ".safetensors": changed_tensors,
    ".ckpt": changed_checkpoint,
    ".parquet": changed_table,
    ".sqlite": changed_database,
    ".txt": changed_words,
    ".csv": changed_words,
}


def changed(path: Path) -> st.SearchStrategy[tuple[Path, bytes]]:
    """A file's content changed as its kind allows, or as mere bytes."""
    content = path.read_bytes()
    ways = [changed_bytes(content)]
    if path.suffix in CHANGES:
        ways.append(CHANGES[path.suffix](content))
    return st.tuples(st.just(path), st.one_of(ways))
