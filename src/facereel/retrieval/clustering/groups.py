"""Groups of tracks in an index."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from facereel.errors import UserError
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.clustering.linkage import Span, cluster_tracks
from facereel.retrieval.track_index import Track, TrackIndex

# Chosen on half of the people of YouTube Faces: docs/results/grouping.md. exp(-1.8) is 1 to 6.
_LOG_ODDS = -1.8
# Number of times that groups are made again if the user decided something in the meantime.
_TRIES = 3


@dataclass(frozen=True)
class Group:
    """Tracks that probably show the same person."""

    number: int
    tracks: list[Track]

    @property
    def names(self) -> list[str]:
        """Names of the tracks, the most frequent first."""
        return [name for name, _ in Counter(track.person for track in self.tracks).most_common() if name is not None]

    @property
    def unnamed(self) -> list[Track]:
        """Tracks without a name."""
        return [track for track in self.tracks if track.person is None]

    @property
    def proposal(self) -> str | None:
        """Probable name of the unnamed tracks, if all others have the same name; else None."""
        return self.names[0] if len(self.names) == 1 and self.unnamed else None

    @property
    def n_videos(self) -> int:
        """Number of videos."""
        return len({track.video for track in self.tracks})

    @property
    def seconds(self) -> float:
        """Total duration of the tracks in seconds; tracks of data sets have no duration."""
        return sum((track.end_s or 0.0) - (track.start_s or 0.0) for track in self.tracks)


def default_threshold(calibration: Calibration, n_tracks: int) -> float:
    """Return our choice of the distance up to which groups are joined.

    There the odds that two single tracks show one person are 1 to 6, since a mean over several pairs of tracks is more
    reliable than one pair. The distance decreases with the number of tracks, since more people look alike among more.

    Args:
        calibration: calibration of the index.
        n_tracks: number of tracks.

    Examples:
        >>> round(default_threshold(Calibration(20.0, 50.0), 1000), 3)
        0.298
    """
    return calibration.threshold(n_tracks, _LOG_ODDS)


def group_probability(calibration: Calibration, distance: float, n_tracks: int) -> float:
    """Return the probability that two groups show one person, which is 1/2 at the default threshold.

    Args:
        calibration: calibration of the index.
        distance: mean distance between their tracks.
        n_tracks: number of tracks in the index.
    """
    return replace(calibration, intercept=calibration.intercept - _LOG_ODDS).probability(distance, n_tracks)


def make_groups(index: TrackIndex, threshold: float) -> list[Group]:
    """Cluster all tracks of an index and save the groups; see `cluster_tracks`.

    Args:
        index: the index.
        threshold: maximum distance of groups to join, in 0..1.

    Returns:
        The groups, sorted by number.

    Raises:
        UserError: if FAISS is not installed, the index cannot be written to, or the user decides something each time.
    """
    for _ in range(_TRIES):
        basis, tracks = index.basis_of_clusters(), index.tracks()
        numbers = group_tracks(index, tracks, threshold)
        if index.set_clusters({track.id: number for track, number in zip(tracks, numbers, strict=True)}, basis):
            return grouped(track._replace(cluster=number) for track, number in zip(tracks, numbers, strict=True))
    raise UserError(f"names or other decisions in {index.folder} changed while groups were made: run it again")


def group_tracks(index: TrackIndex, tracks: Sequence[Track], threshold: float) -> list[int]:
    """Cluster tracks of an index, and respect what its user decided about people; see `cluster_tracks`.

    Args:
        index: the index.
        tracks: the tracks.
        threshold: maximum distance of groups to join, in 0..1.

    Returns:
        The group of each track, from 1.

    Raises:
        UserError: if FAISS is not installed, or another process removed a track in the meantime.
    """
    codes = index.codes()
    rows = {id_: row for row, id_ in enumerate(codes.ids.tolist())}
    gone = [track.id for track in tracks if track.id not in rows]
    if gone:
        raise UserError(f"track {gone[0]} was removed from {index.folder} in the meantime: run the same command again")
    place = {track.id: i for i, track in enumerate(tracks)}
    first_of = {track.person: i for i, track in reversed(list(enumerate(tracks))) if track.person is not None}
    same, different = (
        [(place[a], place[b]) for a, b in index.people.pairs(same) if a in place and b in place]
        for same in (True, False)
    )
    rejected = [(place[t], first_of[p]) for t, p in index.people.rejected() if t in place and p in first_of]
    return cluster_tracks(
        codes.packed[[rows[track.id] for track in tracks]],
        index.n_bits,
        threshold,
        features=index.vectors.features([track.id for track in tracks]) if index.has_features else None,
        spans=[Span(track.video, track.start_s, track.end_s) for track in tracks],
        people=[track.person for track in tracks],
        same=same,
        different=[*different, *rejected],
    ).tolist()


def grouped(tracks: Iterable[Track]) -> list[Group]:
    """Collect tracks by group.

    Args:
        tracks: tracks; those without a group are dropped.

    Returns:
        The groups, sorted by number.
    """
    groups: dict[int, list[Track]] = defaultdict(list)
    for track in tracks:
        if track.cluster is not None:
            groups[track.cluster].append(track)
    return [Group(number, groups[number]) for number in sorted(groups)]
