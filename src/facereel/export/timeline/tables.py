"""Intervals as CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from facereel.retrieval.intervals import Interval
from facereel.system.text import printable

COLUMNS = ("video", "start_s", "end_s", "people", "probability", "distance", "tracks")
# A spreadsheet would run a cell that starts with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def describe_interval(interval: Interval) -> dict[str, Any]:
    """Return an interval as an object of JSON.

    Args:
        interval: the interval.

    Returns:
        video, start_s and end_s in seconds, people, probability, distance, and numbers of the tracks.
    """
    return {
        "video": interval.video,
        "start_s": round(interval.start_s, 3),
        "end_s": round(interval.end_s, 3),
        "people": list(interval.people),
        "probability": None if interval.probability is None else round(interval.probability, 4),
        "distance": None if interval.distance is None else round(interval.distance, 6),
        "tracks": list(interval.tracks),
    }


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, which subtitles, EDL and XML cannot hold."""
    return printable(" ".join(text.split()))


def to_json(intervals: Sequence[Interval]) -> str:
    """Return intervals as a JSON list of objects."""
    return json.dumps([describe_interval(one) for one in intervals], indent=1, ensure_ascii=False) + "\n"


def to_csv(intervals: Sequence[Interval]) -> str:
    """Return intervals as CSV with a heading, a row per interval; people and tracks are separated by semicolons.

    A text that starts with =, +, -, @, a tab or a carriage return gets an apostrophe in front, so that no spreadsheet
    runs it as a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out)  # lines end with CR LF, as RFC 4180 has it
    writer.writerow(COLUMNS)
    for interval in intervals:
        row = describe_interval(interval)
        row["people"] = "; ".join(interval.people)
        row["tracks"] = "; ".join(str(track) for track in interval.tracks)
        writer.writerow([_safe(row[column]) for column in COLUMNS])
    return out.getvalue()


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
