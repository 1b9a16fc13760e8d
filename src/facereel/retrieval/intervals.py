"""Times at which people are on screen: close gaps, intersect and subtract."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

# Faces are searched for in 5 frames a second. A face was probably there half a step before it was first seen, and half
# a step after it was last seen: see docs/results/intervals.md.
HALF_STEP_S = 0.1
# Intervals of a person that are this close are joined. The value is our choice.
GAP_S = 1.0
# Times are decimal fractions that are rounded.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Interval:
    """A part of a video in which a person is on screen, or several people are together.

    Args:
        video: path of the video.
        start_s: start in seconds.
        end_s: end in seconds, greater than the start.
        people: names or other labels of the people.
        tracks: numbers of the tracks in the video that show them, increasing; of a part of a joined interval, those of
            the whole.
        distance: distance of the nearest track to the query, in 0..1; None if it is unknown. Of several people, the
            largest.
        probability: probability of the most probable track, in 0..1; None if it is unknown. Of several people, the
            smallest.

    Raises:
        ValueError: if the end is not greater than the start.
    """

    video: str
    start_s: float
    end_s: float
    people: tuple[str, ...] = ()
    tracks: tuple[int, ...] = ()
    distance: float | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(f"an interval must end after its start, not from {self.start_s} to {self.end_s}")

    @property
    def duration_s(self) -> float:
        """The duration in seconds."""
        return self.end_s - self.start_s


def merge(intervals: Iterable[Interval], gap_s: float = GAP_S) -> list[Interval]:
    """Join intervals of the same people in the same video that overlap or are close.

    Args:
        intervals: intervals in any order.
        gap_s: the longest gap to close, in seconds.

    Returns:
        The joined intervals, sorted by video, start and people.

    Raises:
        ValueError: if `gap_s` is negative.

    Examples:
        >>> [(one.start_s, one.end_s) for one in merge([Interval("a", 0, 2), Interval("a", 2.5, 4)], gap_s=1)]
        [(0, 4)]
    """
    if not gap_s >= 0:
        raise ValueError(f"gap_s={gap_s}: must be at least 0")
    merged: dict[tuple[str, tuple[str, ...]], list[Interval]] = defaultdict(list)
    for interval in sorted(intervals, key=_order):
        line = merged[interval.video, interval.people]
        if line and interval.start_s - line[-1].end_s <= gap_s + _EPSILON:
            line[-1] = replace(
                line[-1],
                end_s=max(line[-1].end_s, interval.end_s),
                tracks=tuple(sorted({*line[-1].tracks, *interval.tracks})),
                distance=_known(min, line[-1].distance, interval.distance),
                probability=_known(max, line[-1].probability, interval.probability),
            )
        else:
            line.append(interval)
    return sorted((interval for line in merged.values() for interval in line), key=_order)


def together(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Find when people are on screen at the same time.

    Args:
        first: intervals of one person, or of people who are together.
        second: intervals of another person.

    Returns:
        The parts of videos that are in both, with the people and tracks of both. Their distance and probability are
        those of the less probable person.

    Examples:
        >>> together([Interval("a", 0, 2, ("Ada",))], [Interval("a", 1, 3, ("Alan",))])
        [Interval(video='a', start_s=1, end_s=2, people=('Ada', 'Alan'), tracks=(), distance=None, probability=None)]
    """
    ones, others = _by_video(first), _by_video(second)
    found = [
        replace(
            one,
            start_s=max(one.start_s, other.start_s),
            end_s=min(one.end_s, other.end_s),
            people=tuple(dict.fromkeys((*one.people, *other.people))),
            tracks=tuple(sorted({*one.tracks, *other.tracks})),
            distance=_known(max, one.distance, other.distance),
            probability=_known(min, one.probability, other.probability),
        )
        for video in ones.keys() & others.keys()
        for one, other in _overlapping(ones[video], others[video])
    ]
    return merge(found, gap_s=0)


def without(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Find when people are on screen and another person is not.

    Args:
        first: intervals of the people.
        second: intervals of the other person.

    Returns:
        The parts of the first intervals that are in none of the second.

    Examples:
        >>> [(one.start_s, one.end_s) for one in without([Interval("a", 0, 3)], [Interval("a", 1, 2)])]
        [(0, 1), (2, 3)]
    """
    others = _by_video(second)
    found = []
    for one in merge(first, gap_s=0):
        start_s = one.start_s
        for other in others.get(one.video, []):
            if other.start_s > start_s + _EPSILON and start_s < one.end_s:
                found.append(replace(one, start_s=start_s, end_s=min(one.end_s, other.start_s)))
            start_s = max(start_s, other.end_s)
        if start_s < one.end_s - _EPSILON:
            found.append(replace(one, start_s=start_s))
    return found


def _overlapping(ones: Sequence[Interval], others: Sequence[Interval]) -> Iterator[tuple[Interval, Interval]]:
    """Yield the pairs of intervals of one video, sorted by start, that overlap."""
    first = 0
    longest_s = max(other.duration_s for other in others)
    for one in ones:
        while first < len(others) and others[first].start_s + longest_s <= one.start_s:
            first += 1
        for other in others[first:]:
            if other.start_s >= one.end_s - _EPSILON:
                break
            if other.end_s > one.start_s + _EPSILON:
                yield one, other


def _by_video(intervals: Iterable[Interval]) -> dict[str, list[Interval]]:
    found: dict[str, list[Interval]] = defaultdict(list)
    for interval in merge(intervals, gap_s=0):
        found[interval.video].append(interval)
    return found


def _order(interval: Interval) -> tuple[str, float, float, tuple[str, ...]]:
    return interval.video, interval.start_s, interval.end_s, interval.people


def _known(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    return a if b is None else b if a is None else choose(a, b)
