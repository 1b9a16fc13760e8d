"""Intervals of one video as subtitles: WebVTT and SubRip."""

from collections.abc import Sequence

from facereel.export.timeline.tables import one_line
from facereel.retrieval.intervals import Interval

# SubRip has no escapes, and players take text in these brackets for styles.
_NO_MARKUP = str.maketrans("<>{}", "()()")


def to_webvtt(intervals: Sequence[Interval]) -> str:
    """Return intervals as WebVTT, a cue with the people's names per interval."""
    cues = ["WEBVTT\n"]
    for one in intervals:
        text = _names(one).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{_clock(one.start_s, '.')} --> {_clock(one.end_s, '.')}\n{text}\n")
    return "\n".join(cues)


def to_srt(intervals: Sequence[Interval]) -> str:
    """Return intervals as SubRip, a numbered cue with the people's names per interval.

    Angle brackets and braces become parentheses.
    """
    return "\n".join(
        f"{number}\n{_clock(one.start_s, ',')} --> {_clock(one.end_s, ',')}\n{_names(one).translate(_NO_MARKUP)}\n"
        for number, one in enumerate(intervals, start=1)
    )


def _names(interval: Interval) -> str:
    """Return the people in one line: an empty line would end the cue."""
    return one_line(", ".join(interval.people)) or "?"


def _clock(seconds: float, point: str) -> str:
    units = round(1000 * seconds)
    return f"{units // 3_600_000:02}:{units // 60_000 % 60:02}:{units // 1000 % 60:02}{point}{units % 1000:03}"
