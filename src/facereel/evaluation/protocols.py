"""Who trains and who is searched: splits drawn by a seed, saved as files, named by a hash."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facereel.data.faces import Clip, FaceSet, Still, evenly_spaced
from facereel.errors import UserError
from facereel.files import write_beside

# Stills a clip where a data set has no stills of its own, as in the DHH paper's protocol.
STILLS_PER_TRAIN_CLIP = 3
STILLS_PER_TEST_CLIP = 1


@dataclass
class Part:
    """The clips and stills of one side."""

    clips: list[Clip] = field(default_factory=list)
    stills: list[Still] = field(default_factory=list)

    def keys(self) -> dict[str, list[str]]:
        """What stands in a split file."""
        return {"clips": sorted(c.key for c in self.clips), "stills": sorted(s.key for s in self.stills)}


class Pair(NamedTuple):
    """Two clips to compare, by their keys."""

    fold: int
    first: str
    second: str
    same: bool


@dataclass
class Split:
    """Train, val and test of one protocol; val is taken from train.

    Queries are test (or val). With `searches_train` the gallery is train, as in the closed set; otherwise queries
    search their own part, each without the items of its own source.
    """

    protocol: str
    seed: int
    searches_train: bool
    train: Part = field(default_factory=Part)
    val: Part = field(default_factory=Part)
    test: Part = field(default_factory=Part)
    pretrain_only: list[Still] = field(default_factory=list)
    """Stills of people without a clip: pretraining sees them, codes are not trained on them."""
    notes: dict[str, int] = field(default_factory=dict)
    """How many people or pairs the rules for incomplete data applied to."""
    leaves_out: str = "source"
    """What a search leaves out of the gallery: everything of the query's "source", or only the query as an "item"."""
    pairs: list[Pair] | None = None
    """Pairs of test clips to verify in place of a search."""
    pairs_file: str = ""
    """Name of the file that the pairs were read from."""

    def gallery(self, queries: Part) -> Part:
        """What these queries search."""
        return self.train if self.searches_train else queries

    def as_dict(self) -> dict[str, Any]:
        """The content of the split file."""
        return {
            "protocol": self.protocol,
            "seed": self.seed,
            "searches_train": self.searches_train,
            **{name: getattr(self, name).keys() for name in ("train", "val", "test")},
            "pretrain_only": sorted(still.key for still in self.pretrain_only),
            # Only where it is not the usual: other splits keep their hash.
            **({} if self.leaves_out == "source" else {"leaves_out": self.leaves_out}),
            **({} if self.pairs is None else {"pairs": self.pairs}),
        }

    @property
    def sha256(self) -> str:
        """Hash of the split's content: equal for equal splits on any machine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the split file."""
        with write_beside(path) as beside:
            content = {**self.as_dict(), "sha256": self.sha256, "notes": self.notes}
            if self.pairs is not None:
                content["pairs_file"] = self.pairs_file
            beside.write_text(json.dumps(content, indent=1, ensure_ascii=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, faces: FaceSet) -> Split:
        """Read a split file and find its clips and stills in a data set.

        Raises:
            UserError: if the file is not a split, or names what the data set does not hold.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            clips = {clip.key: clip for clip in faces.clips}
            stills = {still.key: still for still in faces.stills}
            named = {key for name in ("train", "val", "test") for key in content[name]["stills"]}
            for clip in faces.clips if named - stills.keys() else ():
                for still in faces.frames_as_stills(clip):
                    stills.setdefault(still.key, still)
            parts: dict[str, Any] = {
                name: Part(
                    [clips[key] for key in content[name]["clips"]], [stills[key] for key in content[name]["stills"]]
                )
                for name in ("train", "val", "test")
            }
            split = cls(
                content["protocol"],
                content["seed"],
                content["searches_train"],
                **parts,
                pretrain_only=[stills[key] for key in content["pretrain_only"]],
                notes=content["notes"],
                leaves_out=content.get("leaves_out", "source"),
                pairs=[Pair(*pair) for pair in content["pairs"]] if "pairs" in content else None,
                pairs_file=content.get("pairs_file", ""),
            )
        except FileNotFoundError as error:
            raise UserError(f"there is no split file {path}") from error
        except KeyError as error:
            raise UserError(f"{path} names {error}, which the data set does not hold") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is not a split file: {error}") from error
        split.check()
        return split

    def part_of_sources(self) -> dict[str, str]:
        """The part ("train", "val", "test", "pretrain_only") that each source belongs to."""
        parts = {name: self._items(getattr(self, name)) for name in ("train", "val", "test")}
        return {
            item.source: name
            for name, items in {**parts, "pretrain_only": self.pretrain_only}.items()
            for item in items
        }

    @staticmethod
    def _items(part: Part) -> Sequence[Clip | Still]:
        return [*part.clips, *part.stills]

    def check(self) -> None:
        """Refuse a split with one source video on two sides, or with a pair of clips outside test."""
        owners: dict[str, str] = {}
        for name in ("train", "val", "test"):
            for item in self._items(getattr(self, name)):
                if owners.setdefault(item.source, name) != name:
                    raise UserError(f"the split has the source {item.source} both in {owners[item.source]} and {name}")
        test = {clip.key for clip in self.test.clips}
        for pair in self.pairs or ():
            if not {pair.first, pair.second} <= test:
                raise UserError(f"the split has a pair of {pair.first} and {pair.second}, not both clips of test")


class ClosedSet:
    """The same people in training and in the search, split by source video; test queries search train.

    The DHH paper's protocol, but for the draw, which is unknown: here a seeded share of each person's source videos is
    test. Stills of a clip's source go with the clip. Of stills from elsewhere a person's only one is a query; of more,
    the last is the query and the rest train. Who has no still to train on gets frames of the training clips. Val is
    one source video each of some people who have at least two to train on.

    Args:
        test_fraction: share of a person's source videos that is test, at least one if there are two.
        val_fraction: share of all training source videos that becomes val.
    """

    name = "closed_set"

    def __init__(self, test_fraction: float = 0.3, val_fraction: float = 0.1) -> None:
        self.test_fraction = _fraction("test_fraction", test_fraction)
        self.val_fraction = _fraction("val_fraction", val_fraction)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Draw the split.

        Raises:
            UserError: if no query or no gallery is left.
        """
        random = np.random.default_rng(seed)
        split = Split(self.name, seed, searches_train=True)
        clips, stills = _by_person(faces.clips), _by_person(faces.stills)
        test_sources: set[str] = set()
        train_sources: dict[int, list[str]] = {}
        for person, members in clips.items():
            sources = [str(source) for source in random.permutation(sorted({clip.source for clip in members}))]
            n_test = max(1, round(self.test_fraction * len(sources))) if len(sources) > 1 else 0
            test_sources.update(sources[:n_test])
            train_sources[person] = sources[n_test:]
        single = set(train_sources) - {clip.person for clip in faces.clips if clip.source in test_sources}
        _count(split, "people with one source video, never a clip query", len(single))
        val_sources = self._draw_val(random, train_sources)

        def part_of(source: str) -> Part:
            return split.test if source in test_sources else split.val if source in val_sources else split.train

        for person, members in clips.items():
            for clip in members:
                part_of(clip.source).clips.append(clip)
            own = stills.get(person, [])
            own_sources = {clip.source for clip in members}
            for still in own:
                if still.source in own_sources:
                    part_of(still.source).stills.append(still)
            elsewhere = [still for still in own if still.source not in own_sources]
            split.test.stills += elsewhere[-1:]
            has_val = any(clip.source in val_sources for clip in members)
            n_val = 1 if has_val and len(elsewhere) > 2 else 0
            split.val.stills += elsewhere[:n_val]
            split.train.stills += elsewhere[n_val:-1]
        _complete_stills(faces, split)
        without = {clip.person for clip in faces.clips} - {still.person for still in split.test.stills}
        _count(split, "people without a still to query with", len(without))
        _set_aside_people_without_clips(faces, split)
        return _finished(split)

    def _draw_val(self, random: np.random.Generator, train_sources: dict[int, list[str]]) -> set[str]:
        spare = [person for person, sources in train_sources.items() if len(sources) > 1]
        n_val = min(len(spare), round(self.val_fraction * sum(map(len, train_sources.values()))))
        return {train_sources[int(person)][-1] for person in random.permutation(spare)[:n_val]}


class IdentityDisjoint:
    """People in the search were never trained on: the harder and more useful protocol. Ours.

    Every test still searches all test clips and stills, every test clip all others, without those of its own source.

    Args:
        test_fraction: share of the people with clips that is test.
        val_fraction: share of the other people with clips that is val.
    """

    name = "identity_disjoint"

    def __init__(self, test_fraction: float = 0.3, val_fraction: float = 0.1) -> None:
        self.test_fraction = _fraction("test_fraction", test_fraction)
        self.val_fraction = _fraction("val_fraction", val_fraction)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Draw the split.

        Raises:
            UserError: if no query or no gallery is left.
        """
        random = np.random.default_rng(seed)
        split = Split(self.name, seed, searches_train=False)
        clips, stills = _by_person(faces.clips), _by_person(faces.stills)
        people = [int(person) for person in random.permutation(sorted(clips))]
        n_test = max(1, round(self.test_fraction * len(people)))
        n_val = round(self.val_fraction * (len(people) - n_test))
        for place, person in enumerate(people):
            part = split.test if place < n_test else split.val if place < n_test + n_val else split.train
            part.clips += clips[person]
            part.stills += stills.get(person, [])
        _complete_stills(faces, split)
        without = {clip.person for clip in split.test.clips} - {still.person for still in split.test.stills}
        _count(split, "test people without a still, never a still query", len(without))
        _set_aside_people_without_clips(faces, split)
        return _finished(split)


class LeaveOneOut:
    """A data set of which nothing was trained on: every still and clip searches all others. Ours.

    Args:
        leave_out: "source" leaves out with the query all that is of its source video: what was cut from one video is
            easily found. "item" leaves out only the query itself, or the clip that it is a frame of; that is another
            protocol and is called so.

    Raises:
        UserError: for another word.
    """

    name = "leave_one_out"

    def __init__(self, leave_out: str = "source") -> None:
        if leave_out not in ("source", "item"):
            raise UserError(f"protocol.leave_out={leave_out}: must be source or item")
        self.leave_out = leave_out
        if leave_out == "item":
            self.name = "leave_one_item_out"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put everything into test; there is nothing to draw, the seed is only recorded.

        Raises:
            UserError: if there are no clips.
        """
        test = Part(list(faces.clips), list(faces.stills))
        split = Split(self.name, seed, searches_train=False, test=test, leaves_out=self.leave_out)
        if not faces.stills:
            _frames_as_stills(faces, split.test, split.test.clips, STILLS_PER_TEST_CLIP)
        with_clips = {clip.person for clip in split.test.clips}
        strangers = {still.person for still in split.test.stills} - with_clips
        _count(split, "people with stills but no clip, part of still_to_still only", len(strangers))
        return _finished(split)


class SavedSplit:
    """A split as a file holds it: one that `facereel prepare` or a run wrote, or anyone's.

    Args:
        file: a split file.
    """

    name = "saved"

    def __init__(self, file: str | Path | None) -> None:
        if file is None:
            raise UserError("protocol=saved needs protocol.file=FILE, a split.json")
        self.file = Path(file)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Find the file's clips and stills in the data set; the protocol and the seed are those in the file.

        Raises:
            UserError: if it is no split file, or names what the data set does not hold.
        """
        return Split.load(self.file, faces)


def has_match(queries: Part, gallery: Part, leaves_out: str = "source") -> bool:
    """Whether some query has an item of its person to find that is not left out with it."""
    held: dict[int, set[str]] = defaultdict(set)
    items: list[Clip | Still] = [*gallery.clips, *gallery.stills]
    for item in items:
        held[item.person].add(item.source if leaves_out == "source" else item.key)
    asked: list[Clip | Still] = [*queries.clips, *queries.stills]
    return any(held[item.person] - {item.source if leaves_out == "source" else item.key} for item in asked)


def _by_person(items: Iterable[Any]) -> dict[int, list[Any]]:
    grouped: dict[int, list[Any]] = defaultdict(list)
    for item in items:
        grouped[item.person].append(item)
    return dict(sorted(grouped.items()))


def _frames_as_stills(faces: FaceSet, part: Part, clips: Iterable[Clip], per_clip: int) -> None:
    for clip in clips:
        part.stills += faces.frames_as_stills(clip, evenly_spaced(clip.rows, per_clip))


def _complete_stills(faces: FaceSet, split: Split) -> None:
    """Let frames stand in: everywhere in a data set without stills, else for people without one to train on."""
    if not faces.stills:
        for part in (split.val, split.test):
            _frames_as_stills(faces, part, part.clips, STILLS_PER_TEST_CLIP)
    have = {still.person for still in split.train.stills}
    lacking = [clip for clip in split.train.clips if clip.person not in have]
    _frames_as_stills(faces, split.train, lacking, STILLS_PER_TRAIN_CLIP)
    _count(split, "people trained with frames as stills", len({clip.person for clip in lacking}))


def _set_aside_people_without_clips(faces: FaceSet, split: Split) -> None:
    with_clips = {clip.person for clip in faces.clips}
    split.pretrain_only = [still for still in faces.stills if still.person not in with_clips]
    people = {still.person for still in split.pretrain_only}
    _count(split, "people without a clip, left out of the search (their stills pretrain only)", len(people))


def _count(split: Split, note: str, number: int) -> None:
    if number:
        split.notes[note] = number


def _finished(split: Split) -> Split:
    # In the order of the split file, so that a search over a loaded split ties in the same database order.
    for part in (split.train, split.val, split.test):
        part.clips.sort(key=lambda clip: clip.key)
        part.stills.sort(key=lambda still: still.key)
    if not split.test.clips and not split.test.stills:
        raise UserError(f"protocol={split.protocol}: no query is left: nobody has a second source video or a still")
    if not split.gallery(split.test).clips:
        raise UserError(f"protocol={split.protocol}: no person has a clip to search for")
    if not has_match(split.test, split.gallery(split.test), split.leaves_out):
        raise UserError(f"protocol={split.protocol}: no query has anything of its person, from another source, to find")
    split.check()
    return split


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UserError(f"protocol.{name}={value}: must be at least 0 and below 1")
    return value
