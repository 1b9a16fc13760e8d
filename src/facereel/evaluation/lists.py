"""A protocol from a list, such as that of a paper: a file that assigns items to train, val, gallery and query."""

import csv
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from facereel.data import Clip, FaceSet, Still
from facereel.errors import UserError
from facereel.evaluation.split import LEAVES_OUT, Part, Split, has_match

PARTS = ("train", "val", "gallery", "query")

# Maximum number of lines in a message.
_N_NAMED = 5


class Line(NamedTuple):
    """A line of a list."""

    number: int
    part: str
    key: str


class Lists:
    """Parts exactly as listed in a file: each query searches the whole gallery.

    A key may be in two parts, such as train and gallery in a closed set, but a query or val item must not be in train.
    Val items search train if a gallery item is in train, and otherwise each other.

    Args:
        file: a CSV file with the columns part (train, val, gallery or query) and key: the key of a clip or still as in
            per_query.csv, or of a frame to use as a still.
        leave_out: what is excluded from the search of a query: "item" is the query itself, or the clip of which it is a
            frame; "source" is everything from its source video; "nothing".

    Raises:
        UserError: if the file has other content, or `leave_out` is unknown.
    """

    name = "lists"
    names_items = True

    def __init__(self, file: str | Path | None, leave_out: str = "item") -> None:
        if file is None:
            raise UserError("protocol=lists needs protocol.file=FILE, a CSV file with the columns part and key")
        if leave_out not in LEAVES_OUT:
            raise UserError(f"protocol.leave_out={leave_out}: must be one of {', '.join(LEAVES_OUT)}")
        self.file, self.leave_out = Path(file), leave_out
        # A run that has already saved its split does not need the file.
        self.lines = read_list(self.file) if self.file.is_file() else []

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Find the listed items in the data set.

        Args:
            faces: the data set.
            seed: only recorded: nothing is drawn.

        Returns:
            The split.

        Raises:
            UserError: if the file is missing, a key is not in the data set, or no query has a match.
        """
        if not self.lines:
            raise UserError(f"protocol.file: there is no file {self.file}")
        items = self._find(faces)
        parts = {name: Part() for name in PARTS}
        for line in self.lines:
            item = items[line.key]
            part = parts[line.part]
            part.clips.append(item) if isinstance(item, Clip) else part.stills.append(item)
        trained = {line.key for line in self.lines if line.part == "train"}
        searches_train = any(line.key in trained for line in self.lines if line.part == "gallery")
        split = Split(
            *(self.name, seed, searches_train, parts["train"], parts["val"], parts["query"]),
            leaves_out=self.leave_out,
            listed_gallery=parts["gallery"],
        )
        split.check()
        self._count_sources(split)
        if not has_match(split.test, parts["gallery"], self.leave_out):
            raise UserError(f"{self.file}: no query has an item of the same person in the gallery")
        return split

    def _find(self, faces: FaceSet) -> dict[str, Clip | Still]:
        """Return the clip or still of each listed key.

        Raises:
            UserError: if a key is ambiguous or not in the data set.
        """
        clips = {clip.key: clip for clip in faces.clips}
        stills = {still.key: still for still in faces.stills}
        wanted = {line.key for line in self.lines}
        if ambiguous := wanted & clips.keys() & stills.keys():
            raise UserError(f"{self.file}: {min(ambiguous)} is the key of both a clip and a still")
        items: dict[str, Clip | Still] = {**clips, **stills}
        for clip in faces.clips if wanted - items.keys() else ():
            items |= {still.key: still for still in faces.frames_as_stills(clip) if still.key not in items}
        absent = [f"line {line.number} ({line.key[:80]})" for line in self.lines if line.key not in items]
        if absent:
            named = ", ".join(absent[:_N_NAMED]) + (f" and {len(absent) - _N_NAMED} more" * (len(absent) > _N_NAMED))
            examples = " or ".join([*list(clips)[:1], *list(stills)[:1]])
            raise UserError(
                f"{self.file}: {len(absent)} of {len(self.lines)} keys are not in the data set: {named}. Its keys look "
                f"like {examples}"
            )
        return items

    def _count_sources(self, split: Split) -> None:
        """Note properties of the list that the other protocols do not allow."""
        searched = {item.source for item in split.gallery(split.test).items}
        trained = {item.source for item in split.train.items}
        for note, sources in (
            ("queries with an item of the same source in the gallery, as listed", searched),
            ("queries of a source that is also in train, as listed", trained),
        ):
            if count := sum(item.source in sources for item in split.test.items):
                split.notes[note] = count


def read_list(file: Path) -> list[Line]:
    """Read a list of parts and keys.

    Args:
        file: a CSV file with a header that has the columns part and key; other columns are ignored.

    Returns:
        The lines, in the order of the file.

    Raises:
        UserError: if a line has no valid part and key or is repeated, or there is no query or no gallery.
    """
    lines: dict[tuple[str, str], Line] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
            table = csv.DictReader(opened, skipinitialspace=True)
            if not {"part", "key"} <= set(table.fieldnames or ()):
                raise UserError(f"{file}: the first line must have the columns part and key")
            for row in table:
                # File systems encode accents in two ways, manifests in one.
                part, key = (row["part"] or "").strip(), normalize("NFC", (row["key"] or "").strip())
                if part not in PARTS or not key:
                    wrong = f"part {part[:80]!r} is not one of {', '.join(PARTS)}" if key else "it has no key"
                    raise UserError(f"{file}, line {table.line_num}: {wrong}")
                before = lines.setdefault((part, key), line := Line(table.line_num, part, key))
                if before is not line:
                    raise UserError(f"{file}, line {line.number}: repeats line {before.number}, {part} of {key[:80]}")
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}") from error
    listed = {line.part for line in lines.values()}
    if absent := [part for part in ("gallery", "query") if part not in listed]:
        raise UserError(f"{file}: no line has the part {' or '.join(absent)}")
    return list(lines.values())
