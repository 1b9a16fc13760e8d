"""Verification sets of InsightFace, such as lfw.bin, cfp_fp.bin and agedb_30.bin."""

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.errors import UserError
from facereel.storage.insightface_bin import BIN_SUFFIX, insightface_key, read_insightface_bin
from facereel.system.skipped import Skipped
from facereel.video.align import TEMPLATE_MARGIN


def read_insightface(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read a verification set of InsightFace: one file of pairs of faces, aligned to the usual 112 x 112 pixels.

    Args:
        root: the file.
        skipped: unused; images that cannot be decoded are counted when they are cropped.

    Yields:
        A row for each still, in the file's order. The file has no names: the two images of a matching pair get the same
        name, every other image gets a unique name, even if several show the same person.

    Raises:
        UserError: if the file is not a verification set.
    """
    file = Path(str(root)).expanduser()
    if file.suffix != BIN_SUFFIX:
        raise UserError(f"{file}: not a verification set of InsightFace, which is one file that ends in {BIN_SUFFIX}")
    _, same = read_insightface_bin(file)
    for i in range(2 * len(same)):
        key = insightface_key(i)
        person = insightface_key(i - i % 2) if same[i // 2] else key
        yield Row(person, "", key, key, str(file), position=i, central_fraction=1 / TEMPLATE_MARGIN)
