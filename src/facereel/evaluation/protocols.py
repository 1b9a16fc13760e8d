"""Who trains and who is searched: the protocols that draw a split by a seed."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from facereel.data.face_set import Clip, FaceSet
from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.evaluation.split import Part, Split, has_match

# Stills a clip where a data set has no stills of its own, as in the DHH paper's protocol.
STILLS_PER_TRAIN_CLIP = 3
STILLS_PER_TEST_CLIP = 1


class _DrawnSplit:
    """A protocol that draws fractions of the data.

    Args:
        test_fraction: fraction that becomes test.
        val_fraction: fraction of the rest that becomes val.
        search: the part with the queries, "test" or "val". "val" compares settings without reading test: val takes the
            place of test, the last checkpoint is used, and the protocol's name ends in _val.

    Raises:
        UserError: if a fraction is not at least 0 and below 1, or for another part.
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
        """Let val take the place of test, if it is to be searched, and finish the split."""
        if self.search == "val":
            split.protocol, split.test, split.val = f"{self.name}_val", split.val, Part()
        return _finished(split)


class ClosedSet(_DrawnSplit):
    """The same people in training and in the search, split by source video; test queries search train.

    The DHH paper's protocol, except for the draw, which is unknown: here a seeded fraction of each person's source
    videos is test. Stills of a clip's source go with the clip. Of a person's other stills, the last is a query and the
    rest train. People without a still to train on get frames of the training clips. Val is one source video each of
    some people who have at least two to train on.

    Args:
        test_fraction: fraction of a person's source videos that is test, at least one if there are two.
        val_fraction: fraction of all training source videos that becomes val.
        search: the part with the queries, "test" or "val".
    """

    name = "closed_set"

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
        return self._searched(split)

    def _draw_val(self, random: np.random.Generator, train_sources: dict[int, list[str]]) -> set[str]:
        spare = [person for person, sources in train_sources.items() if len(sources) > 1]
        n_val = min(len(spare), round(self.val_fraction * sum(map(len, train_sources.values()))))
        return {train_sources[int(person)][-1] for person in random.permutation(spare)[:n_val]}


class IdentityDisjoint(_DrawnSplit):
    """People in the search were never trained on: the harder and more useful protocol. It is our own.

    Every test still and clip searches all test clips and stills, without those of its own source.

    Args:
        test_fraction: fraction of the people with clips that is test.
        val_fraction: fraction of the other people with clips that is val.
        search: the part with the queries, "test" or "val".
    """

    name = "identity_disjoint"

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
        return self._searched(split)


class LeaveOneOut:
    """A data set that nothing was trained on: every still and clip searches all others. It is our own protocol.

    Args:
        leave_out: "source" excludes everything of the query's source video, since clips of one video are easily found.
            "item" excludes only the query itself, or the clip that it is a frame of; that is another protocol, with
            another name.

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
    """A split from a file: one that `facereel prepare` or a run wrote, or your own.

    Args:
        file: a split file.
    """

    name = "saved"
    names_items = True

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


def _by_person(items: Iterable[Any]) -> dict[int, list[Any]]:
    grouped: dict[int, list[Any]] = defaultdict(list)
    for item in items:
        grouped[item.person].append(item)
    return dict(sorted(grouped.items()))


def _frames_as_stills(faces: FaceSet, part: Part, clips: Iterable[Clip], per_clip: int) -> None:
    for clip in clips:
        part.stills += faces.frames_as_stills(clip, evenly_spaced(clip.rows, per_clip))


def _complete_stills(faces: FaceSet, split: Split) -> None:
    """Use frames as stills: everywhere in a data set without stills, else for people without one to train on."""
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
    _count(split, "people without a clip, excluded from the search (their stills pretrain only)", len(people))


def _count(split: Split, note: str, number: int) -> None:
    if number:
        split.notes[note] = number


def _finished(split: Split) -> Split:
    # In the order of the split file, so that ties have the same database order in a search over a loaded split.
    for part in split.parts.values():
        part.clips.sort(key=lambda clip: clip.key)
        part.stills.sort(key=lambda still: still.key)
    if not split.test.items:
        raise UserError(f"protocol={split.protocol}: no query is left: nobody has a second source video or a still")
    if not split.gallery(split.test).clips:
        raise UserError(f"protocol={split.protocol}: no person has a clip to search for")
    if not has_match(split.test, split.gallery(split.test), split.leaves_out):
        raise UserError(f"protocol={split.protocol}: no query has anything of its person, from another source, to find")
    split.check()
    return split
