"""A folder of stills with one folder for each person, such as Labeled Faces in the Wild."""

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import existing, images, people_folders
from facereel.system.skipped import Skipped


def read_stills(root: str | Path, skipped: Skipped, central_fraction: float = 1.0) -> Iterator[Row]:
    """Read a folder of stills, ROOT/PERSON/IMAGE, such as Labeled Faces in the Wild.

    Args:
        root: the folder.
        skipped: counts files that are not images or are outside a person's folder.
        central_fraction: fraction of an image's sides, around its center, that the face fills.

    Yields:
        A row for each image, without a box.

    Raises:
        UserError: if the folder does not exist.
    """
    root = existing(root)
    for person in people_folders(root, skipped, "stills"):
        for file in images(root / person, skipped, f"stills/{person}"):
            key = f"stills/{person}/{file}"
            yield Row(person, "", key, key, f"{root}/{person}/{file}", central_fraction=central_fraction)
