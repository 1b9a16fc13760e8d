"""Check the columns of tables, which may be damaged."""

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from facereel.errors import UserError


def check_schema(path: Path, table: pa.Table, schema: pa.Schema, optional: Collection[str] = ()) -> None:
    """Check that a table has the expected columns, since its file may be damaged.

    Args:
        path: path of the file, for messages.
        table: the table.
        schema: columns that the table must have.
        optional: names of columns that may have nulls.

    Raises:
        UserError: if a column is missing, has another type, has nulls, or has invalid values.
    """
    if absent := [name for name in schema.names if name not in table.column_names]:
        raise UserError(f"{path} is damaged, or another kind of file: it has no column {', '.join(absent)}")
    for field in schema:
        places = table.schema.get_all_field_indices(field.name)
        column = table[places[0]]
        if len(places) > 1 or column.type != field.type:
            raise UserError(f"{path} is damaged: its column {field.name} is {column.type}, not {field.type}")
        if field.name not in optional and column.null_count:
            raise UserError(f"{path} is damaged: its column {field.name} has missing values")
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise UserError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from error
