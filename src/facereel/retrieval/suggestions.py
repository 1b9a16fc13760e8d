"""Suggestions for naming: pairs of people and groups that may be one person, the most useful question first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.clustering.groups import group_probability
from facereel.retrieval.clustering.linkage import Span, simultaneous
from facereel.retrieval.track_index import Track, TrackIndex
from facereel.system.optional import import_faiss

# Each person or group is compared with this number of nearest others.
_NEAREST = 16
# Less probable pairs are not worth a question: the word for them is "unlikely".
_LEAST = 0.05
# Number of tracks to read at a time.
_AT_ONCE = 2**16


@dataclass(frozen=True)
class Party:
    """A named person, or a group without a name."""

    person: str | None
    number: int | None
    """Number of the group; None for a named person."""
    tracks: list[Track]

    def __str__(self) -> str:
        """Return the name, or "group N"."""
        return self.person or f"group {self.number}"


@dataclass(frozen=True)
class Suggestion:
    """The question whether two parties are the same person. The first one has a name if either does."""

    first: Party
    second: Party
    probability: float
    """Probability that they are, in 0..1."""
    gain: float
    """Information of the answer in bits, times the number of tracks that it settles."""


def suggest(index: TrackIndex, top: int = 10) -> list[Suggestion]:
    """Find the questions that settle most. The order is our choice.

    An answer settles the tracks of the smaller party, or of the unnamed one if the other has a name, and is worth more
    if it is uncertain. Pairs that were answered before, people who are on screen at the same time, and pairs with a
    probability below 1/20 are excluded.

    Args:
        index: the index, with groups or names.
        top: maximum number of suggestions.

    Returns:
        The suggestions, the most useful first.

    Raises:
        UserError: if the index has no calibration or no groups, or FAISS is not installed.
    """
    calibration = index.calibration
    if calibration is None:
        raise UserError(f"{index.folder} has no calibration: facereel convert --calibrate measures one on known people")
    tracks = index.tracks()
    parties = _parties(tracks)
    if not parties:
        raise UserError(f"{index.folder} has no groups: facereel people cluster makes them")
    apart = _apart(index, tracks, parties)
    means = np.stack([_mean(index, party) for party in parties]).astype(np.float32)
    cosines, near = _nearest(means, min(_NEAREST + 1, len(parties)))
    found = {}
    for a, (row, others) in enumerate(zip(cosines.tolist(), near.tolist(), strict=True)):
        for cosine, b in zip(row, others, strict=True):
            pair = (min(a, b), max(a, b))
            if a != b and b >= 0 and pair not in apart and pair not in found:
                found[pair] = _suggestion(parties[pair[0]], parties[pair[1]], cosine, calibration, len(tracks))
    useful = [suggestion for suggestion in found.values() if suggestion is not None]
    return sorted(useful, key=lambda one: -one.gain)[:top]


def _parties(tracks: Sequence[Track]) -> list[Party]:
    """Return named people, then groups."""
    named: dict[str, list[Track]] = {}
    groups: dict[int, list[Track]] = {}
    for track in tracks:
        if track.person is not None:
            named.setdefault(track.person, []).append(track)
        elif track.cluster is not None:
            groups.setdefault(track.cluster, []).append(track)
    people = [Party(person, None, its) for person, its in sorted(named.items())]
    return people + [Party(None, number, its) for number, its in sorted(groups.items())]


def _apart(index: TrackIndex, tracks: Sequence[Track], parties: Sequence[Party]) -> set[tuple[int, int]]:
    """Return pairs of parties that are known to be two people."""
    party_of = {track.id: i for i, party in enumerate(parties) for track in party.tracks}
    number_of = {party.person: i for i, party in enumerate(parties)}
    spans = [Span(track.video, track.start_s, track.end_s) for track in tracks]
    pairs = [(tracks[a].id, tracks[b].id) for a, b in simultaneous(spans)] + index.people.pairs(same=False)
    apart = [(party_of[a], party_of[b]) for a, b in pairs if a in party_of and b in party_of]
    apart += [
        (party_of[track], number_of[person])
        for track, person in index.people.rejected()
        if track in party_of and person in number_of
    ]
    return {(min(pair), max(pair)) for pair in apart}


def _mean(index: TrackIndex, party: Party) -> NDArray[np.float64]:
    """Return the mean vector of a party, whose products are the mean products of tracks."""
    ids = [track.id for track in party.tracks]
    parts = [index.vectors.unit(ids[first : first + _AT_ONCE]).sum(axis=0) for first in range(0, len(ids), _AT_ONCE)]
    mean: NDArray[np.float64] = np.sum(parts, axis=0) / len(ids)
    return mean


def _nearest(means: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    searched = import_faiss().IndexFlatIP(means.shape[1])
    searched.add(means)
    cosines, near = searched.search(means, k)
    return cosines, near


def _suggestion(
    first: Party, second: Party, cosine: float, calibration: Calibration, n_tracks: int
) -> Suggestion | None:
    """Return the question about two parties; None if both have names, or if it is not worth asking."""
    if second.person is not None:
        return None
    n_settled = len(second.tracks) if first.person else min(len(first.tracks), len(second.tracks))
    p = group_probability(calibration, (1 - cosine) / 2, n_tracks)
    if p < _LEAST:
        return None
    entropy = -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
    return Suggestion(first, second, p, entropy * n_settled)
