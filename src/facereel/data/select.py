"""Which people and frames of a manifest are used."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.data.manifest import Manifest
from facereel.errors import UserError

# How a longer clip is cut to at most so many frames.
CUTS = ("even", "random", "pieces")


class Selection(NamedTuple):
    """What of a manifest is used."""

    clips: list[tuple[str, str, str, NDArray[np.int64]]]
    """Person, source, clip's name, and its rows in time order."""
    stills: NDArray[np.int64]
    """Rows."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """All rows, rising."""
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
    """Choose the people and frames of a data set.

    Args:
        manifest: its rows; the frames of a clip in time order.
        good: (N,) rows that may be used; None if all.
        max_frames: at most so many frames a clip; about 30 in the DHH paper.
        frames: of a longer clip, "even" takes frames evenly spaced, "random" draws them, "pieces" cuts it into several
            clips that together hold all its frames.
        n_people: only so many people: those with the most source videos among those who have a still too, then with
            the most frames, then by name. Our rule. None takes all.
        seed: of the draws.

    Raises:
        UserError: for a number out of range or an unknown way.
    """
    if max_frames < 1:
        raise UserError(f"data.max_frames={max_frames}: must be at least 1")
    if frames not in CUTS:
        raise UserError(f"data.frames={frames}: must be one of {', '.join(CUTS)}")
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
    by_group = (
        np.split(rows[np.argsort(member, kind="stable")], np.cumsum(np.bincount(member))[:-1]) if len(rows) else []
    )
    clips = []
    for g in np.argsort(first):
        own = by_group[g]
        whose, where, called = people[person[own[0]]], sources[source[own[0]]], names[name[own[0]]]
        for key, piece in _cut(own, called, max_frames, frames, f"{seed}/{whose}/{where}/{called}"):
            clips.append((whose, where, key, piece))
    return Selection(clips, np.flatnonzero(good & is_still))


def to_read(manifest: Manifest, **chosen: Any) -> NDArray[np.int64]:
    """The rows whose pictures are read for a choice, rising; `chosen` as in `select`.

    Of a video file these are all frames: its face is tracked from each to the next, and only then frames are chosen.
    """
    selection = select(manifest, **chosen)
    people, person = manifest.names("person")
    filmed = {who for who, *_ in selection.clips}
    is_chosen = np.array([who in filmed for who in people], np.bool_)[person] if people else np.zeros(0, np.bool_)
    in_video = manifest.table["position"].to_numpy() >= 0
    return np.union1d(selection.rows, np.flatnonzero(is_chosen & in_video))


def _cut(
    rows: NDArray[np.int64], name: str, max_frames: int, frames: str, seed: str
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    n = len(rows)
    if n <= max_frames:
        yield name, rows
    elif frames == "even":
        yield name, rows[evenly_spaced(range(n), max_frames)]
    elif frames == "random":
        # Each clip has a draw of its own, whatever else the data set holds.
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
        raise UserError(f"data.n_people={n_people}: must be a whole number of at least 1")
    filmed = good & ~is_still
    frames = np.bincount(person[filmed], minlength=len(people))
    pairs = np.unique(np.stack([person[filmed], source[filmed]]), axis=1)
    videos = np.bincount(pairs[0], minlength=len(people))
    have_still = np.bincount(person[good & is_still], minlength=len(people)) > 0
    if not have_still.any():  # frames will stand in
        have_still[:] = True
    eligible = [p for p in range(len(people)) if videos[p] and have_still[p]]
    if len(eligible) < n_people:
        raise UserError(f"data.n_people={n_people}: only {len(eligible)} people have both a clip and a still")
    return sorted(eligible, key=lambda p: (-videos[p], -frames[p], people[p]))[:n_people]


def evenly_spaced(items: Sequence[int], count: int) -> list[int]:
    """At most `count` items, the first and the last among them if count > 1."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
