"""Moments of a video for people to read."""

from __future__ import annotations


def clock(seconds: float, digits: int = 0) -> str:
    """A moment as on a player: hours, if any, minutes and seconds.

    Args:
        seconds: from the start.
        digits: of the seconds' fraction; what is beyond is cut off.

    Examples:
        >>> clock(7), clock(62.48, 1), clock(3725)
        ('0:07', '1:02.4', '1:02:05')
    """
    units = int(seconds * 10**digits + 1e-6)
    whole, fraction = divmod(units, 10**digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f".{fraction:0{digits}}" if digits else ""
    return f"{hours}:{minutes:02}:{rest:02}{tail}" if hours else f"{minutes}:{rest:02}{tail}"
