"""Who is on screen: one JSON file per video, for a player."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.export.timeline.folders import files_of_videos
from facereel.retrieval.intervals import Interval
from facereel.storage.files import atomic_write
from facereel.video.media_facts import read_media_facts


def write_player_files(folder: str | Path, intervals: Iterable[Interval]) -> list[Path]:
    """Write who is on screen when, a JSON file per video.

    Each file has the keys video, duration_s (if the video can be read) and people: a list of objects with name and
    intervals, a list of start and end in seconds.

    Args:
        folder: folder for the files, created if it does not exist; in it they are as the videos are below the folder
            that all videos share, and `.json` is added to their names. Existing files are replaced.
        intervals: the intervals, each of one person or more.

    Returns:
        The files.

    Raises:
        OSError: if a file cannot be written.
    """
    videos: dict[str, list[Interval]] = defaultdict(list)
    for interval in intervals:
        videos[interval.video].append(interval)
    files = files_of_videos(Path(folder), videos, ".json")
    for video, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as unfinished:
            text = json.dumps(describe_video(video, videos[video]), indent=1, ensure_ascii=False)
            unfinished.write_text(f"{text}\n", encoding="utf-8")
    return list(files.values())


def describe_video(video: str, intervals: Sequence[Interval]) -> dict[str, Any]:
    """Return who is on screen when in a video, as an object of JSON.

    Args:
        video: path of the video.
        intervals: its intervals.

    Returns:
        video, duration_s if the video can be read, and people with their names and intervals, sorted by name.
    """
    described: dict[str, Any] = {"video": video}
    with suppress(UserError):  # the video may be on a drive that is not connected
        duration_s = read_media_facts(video).duration_s
        if duration_s is not None:
            described["duration_s"] = round(duration_s, 3)
    people: dict[str, list[list[float]]] = defaultdict(list)
    for one in sorted(intervals, key=lambda one: (one.start_s, one.end_s)):
        for person in one.people:
            people[person].append([round(one.start_s, 3), round(one.end_s, 3)])
    described["people"] = [{"name": name, "intervals": people[name]} for name in sorted(people)]
    return described
