"""Select people and frames of a manifest."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from facereel.data.manifest import Manifest
from facereel.errors import UserError

T = TypeVar("T")

# Ways to reduce a longer clip to `max_frames` frames.
FRAME_CHOICES = ("even", "random", "pieces")


class Selection(NamedTuple):
    """The selected part of a manifest."""

    clips: list[tuple[str, str, str, NDArray[np.int64]]]
    """Person, source, name of the clip, and its rows in time order."""
    stills: NDArray[np.int64]
    """Rows of the stills."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """All rows, sorted."""
        return np.unique(np.concatenate([self.stills, *(rows for *_, rows in self.clips)]))


def select(
    manifest: Manifest,
    good: NDArray[np.bool_] | None = None,
    *,
    max_frames: int = 30,
    frames: str = "even",
    n_people: int | None = None,
    seed: int = 0,
) -> Selection:
    """Select people and frames.

    Args:
        manifest: rows to select from; the frames of a clip in time order.
        good: (N,) True for rows that may be used; None uses all.
        max_frames: maximum number of frames of a clip; about 30 in the DHH paper.
        frames: for longer clips, "even" takes evenly spaced frames, "random" draws them, "pieces" splits the clip into
            several clips that together have all its frames.
        n_people: number of people. Among people with a still, those with the most source videos are taken, then those
            with the most frames, then by name (our choice). None takes all.
        seed: random seed for the frames.

    Returns:
        The selected clips and stills.

    Raises:
        UserError: if an argument is out of range.
    """
    if max_frames < 1:
        raise UserError(f"max_frames={max_frames}: must be at least 1")
    if frames not in FRAME_CHOICES:
        raise UserError(f"frames={frames}: must be one of {', '.join(FRAME_CHOICES)}")
    good = np.ones(len(manifest), np.bool_) if good is None else good
    people, person = manifest.names("person")
    sources, source = manifest.names("source")
    names, name = manifest.names("clip")
    is_still = manifest.is_still()
    if n_people is not None:
        good = good & np.isin(person, _most_filmed(people, person, source, is_still, good, n_people))
    rows = np.flatnonzero(good & ~is_still)
    group = (person[rows] * len(sources) + source[rows]) * len(names) + name[rows]
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    by_group = np.split(rows[np.argsort(member, kind="stable")], np.cumsum(np.bincount(member))[:-1])
    clips = []
    for g in np.argsort(first):
        of_clip = by_group[g]
        names_of_clip = people[person[of_clip[0]]], sources[source[of_clip[0]]], names[name[of_clip[0]]]
        for key, piece in _limit(of_clip, names_of_clip[2], max_frames, frames, "/".join((str(seed), *names_of_clip))):
            clips.append((*names_of_clip[:2], key, piece))
    return Selection(clips, np.flatnonzero(good & is_still))


def to_read(manifest: Manifest, **chosen: Any) -> NDArray[np.int64]:
    """Return the sorted rows of images to read for a selection.

    All frames of a selected video file are read: its face is tracked through them before frames are selected.

    Args:
        manifest: rows to select from.
        **chosen: choice of people and frames, as in `select`.
    """
    selection = select(manifest, **chosen)
    people, person = manifest.names("person")
    filmed = {name for name, *_ in selection.clips}
    is_chosen = np.array([name in filmed for name in people], np.bool_)[person]
    in_video = manifest.table["position"].to_numpy() >= 0
    return np.union1d(selection.rows, np.flatnonzero(is_chosen & in_video))


def _limit(
    rows: NDArray[np.int64], name: str, max_frames: int, frames: str, seed: str
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    n = len(rows)
    if n <= max_frames:
        yield name, rows
    elif frames == "even":
        yield name, rows[evenly_spaced(range(n), max_frames)]
    elif frames == "random":
        # The random frames of a clip do not depend on the rest of the data set.
        random = np.random.default_rng(zlib.crc32(seed.encode()))
        yield name, rows[np.sort(random.permutation(n)[:max_frames])]
    else:
        for i, piece in enumerate(np.array_split(rows, -(-n // max_frames))):
            yield f"{name}#{i}", piece


def _most_filmed(
    people: list[str],
    person: NDArray[np.int64],
    source: NDArray[np.int64],
    is_still: NDArray[np.bool_],
    good: NDArray[np.bool_],
    n_people: int,
) -> list[int]:
    if type(n_people) is not int or n_people < 1:
        raise UserError(f"n_people={n_people}: must be a whole number of at least 1")
    filmed = good & ~is_still
    frames = np.bincount(person[filmed], minlength=len(people))
    pairs = np.unique(np.stack([person[filmed], source[filmed]]), axis=1)
    videos = np.bincount(pairs[0], minlength=len(people))
    have_still = np.bincount(person[good & is_still], minlength=len(people)) > 0
    if not have_still.any():  # frames will be used as stills
        have_still[:] = True
    eligible = [p for p in range(len(people)) if videos[p] and have_still[p]]
    if len(eligible) < n_people:
        raise UserError(f"n_people={n_people}: only {len(eligible)} people have both a clip and a still")
    return sorted(eligible, key=lambda p: (-videos[p], -frames[p], people[p]))[:n_people]


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` evenly spaced items, with the first and the last if count > 1."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
