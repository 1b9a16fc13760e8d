"""A folder of stills, one folder a person, such as Labeled Faces in the Wild."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing, pictures
from facereel.skipped import Skipped


def read_stills(
    root: str | Path, skipped: Skipped, option: str = "data.stills_root", share: float = 1.0
) -> Iterator[Row]:
    """Read a folder of stills, ROOT/PERSON/PICTURE, such as Labeled Faces in the Wild.

    Args:
        root: the folder.
        skipped: counts files that are not pictures, or in no person's folder.
        option: the option that named the folder, for messages.
        share: the face is this central share of a picture's sides.

    Yields:
        A row a picture, without a box.

    Raises:
        UserError: if the folder is absent.
    """
    root = existing(root, option)
    people, strays = entries(root, skipped, "stills")
    for file in strays:
        skipped.add("file outside a person's folder", f"stills/{file}")
    for person in people:
        for file in pictures(root / person, skipped, f"stills/{person}"):
            key = f"stills/{person}/{file}"
            yield Row(person, "", key, key, f"{root}/{person}/{file}", share=share)
