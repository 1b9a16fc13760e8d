"""Groups of tracks in an index."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from facereel.retrieval.clustering.linkage import Span, cluster_tracks
from facereel.retrieval.track_index import Track, TrackIndex


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


def make_groups(index: TrackIndex, threshold: float) -> list[Group]:
    """Cluster all tracks of an index and save the groups; see `cluster_tracks`.

    Args:
        index: the index.
        threshold: maximum distance of groups to join, in 0..1.

    Returns:
        The groups, sorted by number.

    Raises:
        UserError: if FAISS is not installed, or the index cannot be written to.
    """
    codes = index.codes()
    by_id = {track.id: track for track in index.tracks()}
    # Another process may have added or removed tracks in between.
    kept = [(row, by_id[id_]) for row, id_ in enumerate(codes.ids.tolist()) if id_ in by_id]
    tracks = [track for _, track in kept]
    numbers = cluster_tracks(
        codes.packed[[row for row, _ in kept]],
        index.n_bits,
        threshold,
        spans=[Span(track.video, track.start_s, track.end_s) for track in tracks],
        people=[track.person for track in tracks],
    ).tolist()
    index.set_clusters({track.id: number for track, number in zip(tracks, numbers, strict=True)})
    return grouped(track._replace(cluster=number) for track, number in zip(tracks, numbers, strict=True))


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
