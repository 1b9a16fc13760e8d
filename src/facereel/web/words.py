"""Tracks and distances in words."""

from __future__ import annotations

from pathlib import Path

from facereel.clock import clock
from facereel.retrieval.track_index import Track


def times(track: Track) -> str:
    """When a track is seen, or that it is not known."""
    if track.start_s is None or track.end_s is None:
        return "no times"
    return f"{clock(track.start_s)} to {clock(track.end_s)}"


def video_name(video: str) -> str:
    """The name of a video's file."""
    return Path(video).name or video


def who(track: Track) -> str:
    """A track's person, or its group, as far as is known."""
    if track.person is not None:
        return track.person
    return "no name yet" if track.cluster is None else f"group {track.cluster}"


def what_distance_means(threshold: float | None, digits: int) -> str:
    """Explain the distance in a sentence for readers who do not know about codes.

    Args:
        threshold: see `FaceSearch.threshold`.
        digits: of the threshold after the decimal point.
    """
    scale = "Distance: 0 is the same face, 1 as different as can be"
    if threshold is None:
        return f"{scale}. This index has no measured limit up to which it is probably the same person."
    return f"{scale}; up to {threshold:.{digits}f} it is probably the same person."
