"""Erase videos and people from an index, with their crops if these are in the folder of the index.

Call `TrackIndex.save_codes` afterwards: until then, FAISS's files have the erased codes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from facereel.errors import UserError
from facereel.retrieval.track_index import TrackIndex
from facereel.storage.untrusted import resolve_inside
from facereel.video.track_file import ENDING, copy_tracks, fingerprint_of, read_about

# The folder of an index with the track files of its videos.
TRACKS = "tracks"


def has_own_crops(index: TrackIndex, source: str) -> bool:
    """Return whether a track file is in the folder of an index, and is erased with its video.

    Args:
        index: the index.
        source: path of the track file.
    """
    return Path(source).is_relative_to((index.folder / TRACKS).absolute())


def erase_video(index: TrackIndex, video: str) -> int:
    """Erase a video: its tracks, codes, thumbnails, and its crops if they are in the folder of the index.

    Args:
        index: the index.
        video: path of the video in the index.

    Returns:
        The number of erased tracks.

    Raises:
        UserError: if the index cannot be written.
    """
    return erase_videos(index, [video])[video]


def erase_videos(index: TrackIndex, videos: Sequence[str]) -> dict[str, int]:
    """Erase several videos, as `erase_video` does.

    Args:
        index: the index.
        videos: paths of the videos in the index.

    Returns:
        The number of erased tracks by video.

    Raises:
        UserError: if the index cannot be written.
    """
    records = index.records()
    found = [records[video] for video in videos if video in records]
    contents = {record.content for record in found if has_own_crops(index, record.source)}
    # The crops first: if this is interrupted, the videos are still in the index, and can be erased again.
    for file, content, _ in _track_files(index) if contents else ():
        if content in contents:
            file.unlink(missing_ok=True)
    return {video: index.remove_video(video) for video in videos}


def erase_person(index: TrackIndex, person: str) -> int:
    """Erase the tracks of a person: codes, thumbnails, and the crops that are in the folder of the index.

    Args:
        index: the index.
        person: name of the person.

    Returns:
        The number of erased tracks.

    Raises:
        UserError: if the index cannot be written.
    """
    records = index.records()
    numbers: dict[str | None, set[int]] = defaultdict(set)
    fingerprints: dict[str | None, str] = {}
    for track in index.tracks(index.ids_of_person(person)):
        if has_own_crops(index, track.source):
            numbers[track.content].add(track.number)
            fingerprints[track.content] = records[track.video].fingerprint
    for file, content, fingerprint in _track_files(index) if numbers else ():
        if content not in numbers:
            continue
        if fingerprint == fingerprints[content]:  # otherwise its tracks have other numbers, and nothing needs it
            copy_tracks(file, file, read_about(file), without=numbers[content])
        else:
            file.unlink(missing_ok=True)
    return index.remove_person(person)


def _track_files(index: TrackIndex) -> Iterator[tuple[Path, str, str]]:
    """Yield the readable track files in the index, with the content of the video and their fingerprint.

    Copies of a video have their own files, and an interrupted move leaves one in a subfolder.
    """
    for file in sorted((index.folder / TRACKS).rglob(f"*{ENDING}")):
        resolve_inside(index.folder, file)
        try:
            about = read_about(file)
        except UserError:
            continue
        yield file, about["content"], fingerprint_of(about)
