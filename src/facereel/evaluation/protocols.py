"""Protocols that draw a split from a seed or read it from a file."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from facereel.data.face_set import Clip, FaceSet
from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.evaluation.split import Part, Split, has_match

# Number of frames per clip that are used as stills if a data set has none, as in the protocol of the DHH paper.
STILLS_PER_TRAIN_CLIP = 3
STILLS_PER_TEST_CLIP = 1


class _DrawnSplit:
    """A protocol that draws fractions of the data.

    Args:
        test_fraction: fraction of the data in test.
        val_fraction: fraction of the rest in val.
        search: the part with the queries, "test" or "val". With "val", settings are compared without reading test: val
            replaces test, the last checkpoint is used, and the name of the protocol ends in _val.

    Raises:
        UserError: if a fraction is not at least 0 and below 1, or `search` is another part.
    """

    name: str

    def __init__(self, test_fraction: float = 0.3, val_fraction: float = 0.1, search: str = "test") -> None:
        self.test_fraction, self.val_fraction, self.search = test_fraction, val_fraction, search
        if search not in ("test", "val"):
            raise UserError(f"protocol.search={search}: must be test or val")
        for name in ("test_fraction", "val_fraction"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise UserError(f"protocol.{name}={value}: must be at least 0 and below 1")

    def _searched(self, split: Split) -> Split:
        """Return the finished split, with val in place of test if val is searched."""
        if self.search == "val":
            split.protocol, split.test, split.val = f"{self.name}_val", split.val, Part()
        return _finished(split)


class ClosedSet(_DrawnSplit):
    """The same people in training and in the search, split by source video; test queries search train.

    This is the protocol of the DHH paper, except for the draw, which is unknown: here a seeded fraction of the source
    videos of each person is test. Stills from the source of a clip are in the same part as the clip. Of the other
    stills of a person, the last is a query and the others are in train. For people without a training still, frames of
    the training clips are used. Val has one source video of some people with at least two training videos.

    Args:
        test_fraction: fraction of the source videos of a person in test, at least one video if there are two.
        val_fraction: fraction of all training source videos in val.
        search: the part with the queries, "test" or "val".
    """

    name = "closed_set"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Draw the split.

        Args:
            faces: the data set.
            seed: random seed.

        Returns:
            The split.

        Raises:
            UserError: if there is no query or no gallery.
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
        _count(split, "people with one source video, so they have no clip query", len(single))
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
        _count(split, "people without a still query", len(without))
        _set_aside_people_without_clips(faces, split)
        return self._searched(split)

    def _draw_val(self, random: np.random.Generator, train_sources: dict[int, list[str]]) -> set[str]:
        spare = [person for person, sources in train_sources.items() if len(sources) > 1]
        n_val = min(len(spare), round(self.val_fraction * sum(map(len, train_sources.values()))))
        return {train_sources[int(person)][-1] for person in random.permutation(spare)[:n_val]}


class IdentityDisjoint(_DrawnSplit):
    """Different people in training and in the search: the harder and more useful protocol. Our choice.

    Every test still and clip searches all test clips and stills, without those of its own source.

    Args:
        test_fraction: fraction of the people with clips in test.
        val_fraction: fraction of the other people with clips in val.
        search: the part with the queries, "test" or "val".
    """

    name = "identity_disjoint"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Draw the split.

        Args:
            faces: the data set.
            seed: random seed.

        Returns:
            The split.

        Raises:
            UserError: if there is no query or no gallery.
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
        _count(split, "test people without a still, so they have no still query", len(without))
        _set_aside_people_without_clips(faces, split)
        return self._searched(split)


class LeaveOneOut:
    """Search without a training part: every still and clip searches all others. Our choice.

    Args:
        leave_out: "source" excludes everything from the source video of the query, since clips of the same video are
            easily found. "item" excludes only the query itself, or the clip of which it is a frame; that is another
            protocol with another name.

    Raises:
        UserError: if `leave_out` is unknown.
    """

    name = "leave_one_out"

    def __init__(self, leave_out: str = "source") -> None:
        if leave_out not in ("source", "item"):
            raise UserError(f"protocol.leave_out={leave_out}: must be source or item")
        self.leave_out = leave_out
        if leave_out == "item":
            self.name = "leave_one_item_out"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put everything into test.

        Args:
            faces: the data set.
            seed: only recorded: nothing is drawn.

        Returns:
            The split.

        Raises:
            UserError: if there are no clips, or no query has a match.
        """
        test = Part(list(faces.clips), list(faces.stills))
        split = Split(self.name, seed, searches_train=False, test=test, leaves_out=self.leave_out)
        if not faces.stills:
            _frames_as_stills(faces, split.test, split.test.clips, STILLS_PER_TEST_CLIP)
        with_clips = {clip.person for clip in split.test.clips}
        strangers = {still.person for still in split.test.stills} - with_clips
        _count(split, "people with stills but no clip, used in still_to_still only", len(strangers))
        return _finished(split)


class SavedSplit:
    """A split from a file, written by `facereel prepare`, by a run, or by yourself.

    Args:
        file: path of the split file.

    Raises:
        UserError: if there is no path.
    """

    name = "saved"
    names_items = True

    def __init__(self, file: str | Path | None) -> None:
        if file is None:
            raise UserError("protocol=saved needs protocol.file=FILE, a split.json")
        self.file = Path(file)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Read the split and find its clips and stills in the data set.

        Args:
            faces: the data set.
            seed: not used: the seed in the file is kept.

        Returns:
            The split.

        Raises:
            UserError: if the file is not a split, or contains an item that is not in the data set.
        """
        return Split.load(self.file, faces)


def _by_person(items: Iterable[Any]) -> dict[int, list[Any]]:
    grouped: dict[int, list[Any]] = defaultdict(list)
    for item in items:
        grouped[item.person].append(item)
    return dict(sorted(grouped.items()))


def _frames_as_stills(faces: FaceSet, part: Part, clips: Iterable[Clip], per_clip: int) -> None:
    for clip in clips:
        part.stills += faces.frames_as_stills(clip, evenly_spaced(clip.rows, per_clip))


def _complete_stills(faces: FaceSet, split: Split) -> None:
    """Use frames as stills: in all parts if a data set has no stills, else for people without a training still."""
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
    _count(split, "people without a clip, excluded from the search (their stills are for pretraining)", len(people))


def _count(split: Split, note: str, number: int) -> None:
    if number:
        split.notes[note] = number


def _finished(split: Split) -> Split:
    # In the order of the split file, so that the database order of ties is the same after loading a split.
    for part in split.parts.values():
        part.clips.sort(key=lambda clip: clip.key)
        part.stills.sort(key=lambda still: still.key)
    if not split.test.items:
        raise UserError(f"protocol={split.protocol}: there is no query: no person has a second source video or a still")
    if not split.gallery(split.test).clips:
        raise UserError(f"protocol={split.protocol}: the gallery has no clip")
    if not has_match(split.test, split.gallery(split.test), split.leaves_out):
        raise UserError(
            f"protocol={split.protocol}: no query has an item of the same person from another source in the gallery"
        )
    split.check()
    return split
