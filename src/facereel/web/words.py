"""Tracks and distances in words."""

from pathlib import Path

from facereel.retrieval.track_index import Track
from facereel.system.text import format_timestamp


def time_span(track: Track) -> str:
    """When a track is visible, or that it is unknown."""
    if track.start_s is None or track.end_s is None:
        return "no times"
    return f"{format_timestamp(track.start_s)} to {format_timestamp(track.end_s)}"


def video_name(video: str) -> str:
    """The name of a video's file."""
    return Path(video).name or video


def explain_distance(threshold: float | None, digits: int) -> str:
    """Explain distances to readers who do not know about codes.

    Args:
        threshold: see `FaceSearch.threshold`.
        digits: decimals of the threshold.
    """
    scale = "Distance: 0 is the same face, 1 as different as can be"
    if threshold is None:
        return f"{scale}. This index has no measured limit up to which it is probably the same person."
    return f"{scale}; up to {threshold:.{digits}f} it is probably the same person."
