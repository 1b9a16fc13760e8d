"""A folder of stills, one folder a person, such as Labeled Faces in the Wild."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row, Skipped
from facereel.data.readers.listing import PICTURES, existing, folders


def read_stills(
    root: str | Path, skipped: Skipped, option: str = "data.stills_root", share: float = 1.0
) -> Iterator[Row]:
    """Read a folder of stills, ROOT/PERSON/PICTURE, such as Labeled Faces in the Wild.

    Args:
        root: the folder.
        skipped: counts files that are not pictures.
        option: the option that named the folder, for messages.
        share: the face is this central share of a picture's sides.

    Yields:
        A row a picture, without a box.

    Raises:
        UserError: if the folder is absent.
    """
    for person in folders(existing(root, option)):
        for file in sorted(person.iterdir()):
            key = f"stills/{person.name}/{file.name}"
            if file.suffix.lower() in PICTURES:
                yield Row(person.name, "", key, key, str(file), share=share)
            else:
                skipped.add("file that is not a picture", key)
