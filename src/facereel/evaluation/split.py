"""Splits of a data set into training and test parts, saved as files and identified by a hash."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from facereel.data.face_set import Clip, FaceSet, Still
from facereel.errors import UserError
from facereel.evaluation.templates import TemplatePairs, TemplateSearches
from facereel.storage.files import atomic_write
from facereel.storage.untrusted import read_json

# Largest split file, in bytes: 5 million images with keys of 200 characters.
LARGEST_SPLIT = 2**30

# What a search may exclude from the gallery of a query; see `Split.leaves_out`.
LEAVES_OUT = ("source", "item", "nothing")


@dataclass
class Part:
    """The clips and stills of one part."""

    clips: list[Clip] = field(default_factory=list)
    stills: list[Still] = field(default_factory=list)

    @property
    def items(self) -> list[Clip | Still]:
        """Clips, then stills."""
        return [*self.clips, *self.stills]

    @property
    def by_kind(self) -> dict[str, Sequence[Clip | Still]]:
        """Items under "clip" and "still"; a kind without items is omitted."""
        return {kind: items for kind, items in (("clip", self.clips), ("still", self.stills)) if items}

    def in_order(self) -> dict[str, list[str]]:
        """Return the keys in their order, for a split file."""
        return {"clips": [clip.key for clip in self.clips], "stills": [still.key for still in self.stills]}

    def keys(self) -> dict[str, list[str]]:
        """Return the sorted keys, for the hash of a split."""
        return {kind: sorted(keys) for kind, keys in self.in_order().items()}


class Pair(NamedTuple):
    """Keys of two items to compare: clips, stills, or one of each."""

    fold: int
    first: str
    second: str
    same: bool


_PAIR = (int, str, str, bool)


@dataclass
class Split:
    """Train, val and test of one protocol; val is taken from train.

    The queries are the test part (or val). With `searches_train` the gallery is train, as in the closed set; otherwise
    queries search their own part, each without the items of its own source. A list may define another gallery for test.
    """

    protocol: str
    seed: int
    searches_train: bool
    train: Part = field(default_factory=Part)
    val: Part = field(default_factory=Part)
    test: Part = field(default_factory=Part)
    pretrain_only: list[Still] = field(default_factory=list)
    """Stills of people without a clip: used in pretraining, but codes are not trained on them."""
    notes: dict[str, int] = field(default_factory=dict)
    """Number of people or pairs to which each rule for incomplete data was applied."""
    leaves_out: str = "source"
    """What a search excludes from the gallery: everything from the "source" of the query, only the query itself
    ("item"), or "nothing"."""
    pairs: list[Pair] | None = None
    """Pairs of test items to verify instead of a search."""
    pairs_file: str = ""
    """Name of the file from which the pairs were read."""
    templates: TemplatePairs | TemplateSearches | None = None
    """Templates of test to verify or identify instead of a search. They are not saved in a split file."""
    listed_gallery: Part | None = None
    """Gallery of test that a list defines; its items may also be in train, val or test."""

    @property
    def parts(self) -> dict[str, Part]:
        """Train, val and test, and the gallery if a list defines one."""
        listed = {} if self.listed_gallery is None else {"gallery": self.listed_gallery}
        return {"train": self.train, "val": self.val, "test": self.test, **listed}

    def gallery(self, queries: Part) -> Part:
        """Return the gallery of a part.

        Args:
            queries: `test` or `val` of this split.

        Returns:
            The part that these queries search.
        """
        if self.listed_gallery is not None and queries is self.test:
            return self.listed_gallery
        return self.train if self.searches_train else queries

    def as_dict(self) -> dict[str, Any]:
        """Return the content that is hashed."""
        return {
            "protocol": self.protocol,
            "seed": self.seed,
            "searches_train": self.searches_train,
            **{name: part.keys() for name, part in self.parts.items()},
            "pretrain_only": sorted(still.key for still in self.pretrain_only),
            # Only if it is not the default, so that the hashes of other splits do not change.
            **({} if self.leaves_out == "source" else {"leaves_out": self.leaves_out}),
            **({} if self.pairs is None else {"pairs": self.pairs}),
            **({} if self.templates is None else {"templates": self.templates.sha256}),
        }

    @property
    def sha256(self) -> str:
        """SHA-256 hash of the content: equal for equal splits on any machine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the split to a file; a file with the same split is not overwritten.

        Args:
            path: path of the JSON file.
        """
        if path.is_file() and self.sha256 in path.read_text(encoding="utf-8", errors="replace"):
            return
        with atomic_write(path) as temporary:
            # In the order in which they were drawn: batches depend on it, and a resumed run reads the order from here.
            content = {
                **self.as_dict(),
                **{name: part.in_order() for name, part in self.parts.items()},
                "pretrain_only": [still.key for still in self.pretrain_only],
                "sha256": self.sha256,
                "notes": self.notes,
                **({} if self.pairs is None else {"pairs_file": self.pairs_file}),
            }
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, faces: FaceSet) -> Self:
        """Read a split file and find its clips and stills in a data set.

        Args:
            path: path of the split file.
            faces: the data set.

        Returns:
            The split.

        Raises:
            UserError: if the file is not a split, or contains an item that is not in the data set.
        """
        try:
            content = read_json(path, LARGEST_SPLIT)
            clips = {clip.key: clip for clip in faces.clips}
            stills = {still.key: still for still in faces.stills}
            names = ["train", "val", "test", *(["gallery"] if "gallery" in content else [])]
            named = {key for name in names for key in content[name]["stills"]}
            for clip in faces.clips if named - stills.keys() else ():
                for still in faces.frames_as_stills(clip):
                    stills.setdefault(still.key, still)
            parts: dict[str, Any] = {
                name: Part(
                    [clips[key] for key in content[name]["clips"]], [stills[key] for key in content[name]["stills"]]
                )
                for name in names
            }
            if not (type(content["protocol"]) is str and type(content["seed"]) is int):
                raise ValueError("its protocol is not a name, or its seed is not a number")
            if not all(type(count) is int for count in content["notes"].values()):
                raise ValueError("its notes are not counts")
            pairs = [Pair(*pair) for pair in content["pairs"]] if "pairs" in content else None
            if not all(
                isinstance(value, kind) for pair in pairs or () for value, kind in zip(pair, _PAIR, strict=True)
            ):
                raise ValueError("its pairs do not consist of a fold, two keys, and true or false")
            split = cls(
                content["protocol"],
                content["seed"],
                bool(content["searches_train"]),
                listed_gallery=parts.pop("gallery", None),
                **parts,
                pretrain_only=[stills[key] for key in content["pretrain_only"]],
                notes=content["notes"],
                leaves_out=content.get("leaves_out", "source"),
                pairs=pairs,
                pairs_file=content.get("pairs_file", ""),
            )
        except FileNotFoundError as error:
            raise UserError(f"there is no split file {path}") from error
        except KeyError as error:
            raise UserError(f"{path} contains {error}, which is not in the data set") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is not a split file: {error}") from error
        split.check()
        return split

    def part_of_sources(self) -> dict[str, str]:
        """Return the part ("train", "val", "test", "pretrain_only") of each source."""
        return {item.source: name for name, items in self.items_by_part().items() for item in items}

    def items_by_part(self) -> dict[str, Sequence[Clip | Still]]:
        """Return all clips and stills of the split, by the name of their part."""
        return {**{name: part.items for name, part in self.parts.items()}, "pretrain_only": self.pretrain_only}

    def check(self) -> None:
        """Check that no item or source video is in two parts, no item is given twice, and all pairs are in test.

        With a gallery from a list, a source may be in several parts, and the gallery may contain any item.

        Raises:
            UserError: if the split violates one of these rules.
        """
        if self.leaves_out not in LEAVES_OUT:
            raise UserError(f"the split has leaves_out={self.leaves_out!r}: must be one of {', '.join(LEAVES_OUT)}")
        owners: dict[str, str] = {}
        for name, items in self.items_by_part().items():
            given = Counter((type(item), item.key) for item in items)
            for item in items:
                if given[type(item), item.key] > 1:
                    raise UserError(f"the split has {item.key} twice in {name}")
                what, owned = ("source", item.source) if self.listed_gallery is None else ("item", item.key)
                if name != "gallery" and owners.setdefault(owned, name) != name:
                    raise UserError(f"the split has the {what} {owned} in both {owners[owned]} and {name}")
        self._check_pairs()

    def _check_pairs(self) -> None:
        if self.pairs is None:
            return
        test = Counter(item.key for item in self.test.items)
        for pair in self.pairs:
            for key in (pair.first, pair.second):
                if test[key] != 1:
                    found = "is both a clip and a still" if test[key] else "is not in test"
                    raise UserError(f"the split has a pair of {pair.first} and {pair.second}: {key} {found}")


def has_match(queries: Part, gallery: Part, leaves_out: str = "source") -> bool:
    """Check that the gallery has a match of a query that is not excluded from its search.

    Args:
        queries: queries of the search.
        gallery: items that are searched.
        leaves_out: as in `Split`.

    Returns:
        True if at least one query has a match.
    """
    held: dict[int, set[str]] = defaultdict(set)
    for item in gallery.items:
        held[item.person].add(item.source if leaves_out == "source" else item.key)
    if leaves_out == "nothing":
        return any(held[item.person] for item in queries.items)
    return any(held[item.person] - {item.source if leaves_out == "source" else item.key} for item in queries.items)
