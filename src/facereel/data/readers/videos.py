"""Read the frames of a video file."""

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.system.skipped import Skipped
from facereel.video.decode import count_frames


def read_video(file: str | Path, skipped: Skipped, *, person: str, clip: str, source: str, key: str) -> Iterator[Row]:
    """Read a video file as a clip.

    Args:
        file: the video file.
        skipped: counts the video if it cannot be opened.
        person: name of the person in the video.
        clip: name of the clip, unique to the person.
        source: name of the video that the clip is a part of.
        key: name in split files, to which `#` and the frame number are added.

    Yields:
        A row for each frame, without a box.
    """
    n_frames = count_frames(file)
    if n_frames == 0:
        skipped.add("video that cannot be opened", key)
    for i in range(n_frames):
        yield Row(person, clip, source, f"{key}#{i}", str(file), position=i)
