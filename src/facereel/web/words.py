"""Describe tracks and distances in words."""

from pathlib import Path

from facereel.retrieval.track_index import Track
from facereel.system.text import format_timestamp


def time_span(track: Track) -> str:
    """Return the time in which a track is visible, or "no times" if unknown."""
    if track.start_s is None or track.end_s is None:
        return "no times"
    return f"{format_timestamp(track.start_s)} to {format_timestamp(track.end_s)}"


def video_name(video: str) -> str:
    """Return the file name of a video."""
    return Path(video).name or video


def explain_distance(threshold: float | None, digits: int) -> str:
    """Return an explanation of distances for users who do not know about codes.

    Args:
        threshold: a `FaceSearch.threshold`.
        digits: number of decimals of the threshold.
    """
    scale = "A distance of 0 means the same face, 1 the greatest difference"
    if threshold is None:
        return f"{scale}. The limit up to which it is probably the same person was not measured for this index."
    return f"{scale}. Up to {threshold:.{digits}f} it is probably the same person."
