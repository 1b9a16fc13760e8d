"""What an index has, by the content of the videos, so that two indexes can be compared; for `kill_index.py`."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from facereel.retrieval.track_database import DATABASE
from facereel.retrieval.track_index import TrackIndex

# A track: the content of its video, and its number.
Key = tuple[str, int]


def key_by_id(index: TrackIndex) -> dict[int, Key]:
    """Return the key of each track."""
    return {track.id: (str(track.content), track.number) for track in index.tracks()}


def groups_of(index: TrackIndex) -> dict[int, frozenset[Key]]:
    """Return the tracks of each group."""
    groups: dict[int, set[Key]] = {}
    for track in index.tracks():
        if track.cluster is not None:
            groups.setdefault(track.cluster, set()).add((str(track.content), track.number))
    return {number: frozenset(tracks) for number, tracks in sorted(groups.items())}


def names_of(index: TrackIndex) -> dict[Key, str]:
    """Return the name of each named track."""
    return {(str(t.content), t.number): t.person for t in index.tracks() if t.person is not None}


def kept_names(folder: Path) -> set[tuple[int, str]]:
    """Return the number and name of tracks of videos that were replaced by others."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept_names'").fetchone() is None:
            return set()
        return set(connection.execute("SELECT number, person FROM kept_names WHERE is_rejected = 0"))


def state_of(folder: Path) -> dict[str, Any]:
    """Return everything that can be compared with the index of another process."""
    index = TrackIndex(folder)
    keys = key_by_id(index)
    features = index.vectors.find_features(list(keys)) if index.has_features else {}
    codes = {}
    for id_, key in keys.items():
        code = index.vectors.code(id_)
        codes[key] = (
            None if code is None else code.numpy().tobytes(),
            features[id_].numpy().tobytes() if id_ in features else None,
        )
    people = index.people
    names = {*names_of(index).values(), *(person for _, person in people.rejected())}
    return {
        "tracks": {(str(t.content), t.number, t.start_s, t.end_s) for t in index.tracks()},
        "names": names_of(index),
        "rejections": {(keys[track], person) for track, person in people.rejected()},
        "pairs that differ": {frozenset((keys[a], keys[b])) for a, b in people.pairs(same=False)},
        "pairs that are the same": linked((keys[a], keys[b]) for a, b in people.pairs(same=True)),
        "photos": {name: [hashlib.sha256(p).hexdigest() for p in people.photos(name)] for name in sorted(names)},
        "groups": set(groups_of(index).values()),
        "codes": codes,
        "model": index.about["model"],
        "thumbnails": {keys[id_] for id_ in keys if index.thumbnails.find(id_) is None},
    }


def linked(pairs: Iterable[tuple[Key, Key]]) -> set[frozenset[Key]]:
    """Return the sets of tracks that are linked by pairs."""
    part_of: dict[Key, frozenset[Key]] = {}
    for a, b in pairs:
        joined = part_of.get(a, frozenset({a})) | part_of.get(b, frozenset({b}))
        part_of |= dict.fromkeys(joined, joined)
    return set(part_of.values())
