"""Find videos of an index that were moved, renamed, copied or deleted."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facereel.retrieval.erase import erase_videos
from facereel.retrieval.track_index import TrackIndex, VideoRecord
from facereel.video.content import content_of, is_folder_gone, is_gone


@dataclass
class Reconciled:
    """The result of `reconcile`: videos that are in the index under another path."""

    moved: dict[str, str] = field(default_factory=dict)
    """The old path of each moved video."""
    copies: dict[str, str] = field(default_factory=dict)
    """For each video that is not listed, the path of the listed one with the same content."""
    passed_over: set[str] = field(default_factory=set)
    """Paths to skip: copies, and old paths of moved videos."""


def reconcile(index: TrackIndex, videos: Sequence[VideoRecord]) -> Reconciled:
    """Update the paths, dates and sources in an index, so that it lists each content once.

    A video that was moved keeps its tracks with their ids, names and groups. One of several copies is listed: the one
    that the index already lists, or else the first by path. If this is killed, the next run completes it.

    Args:
        index: the index, which is changed; new videos are not added.
        videos: videos as described in track files. Videos of a data set have no content hash and are not changed.

    Returns:
        The moved and copied videos.
    """
    done, known = Reconciled(), index.records()
    now = {video.path: video for video in videos}
    listed = _paths_by_content(known.values())
    changes: dict[str, VideoRecord] = {}
    for content, paths in _paths_by_content(now.values()).items():
        chosen, before = _choose(content, paths, listed[content], now, done)
        if before is None:
            continue
        changed = known[before]._replace(path=chosen)
        if chosen in now:
            changed = changed._replace(date=now[chosen].date)
            if changed.fingerprint == now[chosen].fingerprint:  # else its tracks will be replaced
                changed = changed._replace(source=now[chosen].source)
        if changed != known[before]:
            changes[before] = changed
    if changes:
        index.update_videos(changes)
    for path in done.copies.keys() & index.records().keys():  # the index has the file's earlier content
        index.remove_video(path, is_replaced=True)
    return done


def _paths_by_content(videos: Iterable[VideoRecord]) -> dict[str, set[str]]:
    paths: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if video.content is not None:
            paths[video.content].add(video.path)
    return paths


def _choose(
    content: str, paths: set[str], listed: set[str], now: dict[str, VideoRecord], done: Reconciled
) -> tuple[str, str | None]:
    """Return the path to list for a content, and the path that is listed until now, or None.

    Args:
        content: content hash of the videos.
        paths: paths in track files.
        listed: paths in the index.
        now: videos as described in track files, by path.
        done: receives moved and copied videos.
    """
    chosen = min(paths)
    if len(paths | listed) > 1:
        present = {path for path in paths if not is_gone(path)}
        present |= {path for path in listed - now.keys() if _still_has(path, content)}
        chosen = min(present & listed or present or paths & listed or paths)
        done.copies |= dict.fromkeys(sorted(present - {chosen}), chosen)
        done.passed_over |= paths - {chosen}
    if chosen in listed or not listed:
        return chosen, chosen if listed else None
    done.moved[chosen] = before = min(listed)
    return chosen, before


def _still_has(path: str, content: str) -> bool:
    """Return whether a file has a content; True if it exists but cannot be read."""
    try:
        return content_of(path) == content
    except OSError:
        return not is_gone(path)


@dataclass(frozen=True)
class Absent:
    """Choice of missing videos to erase.

    Args:
        everywhere: erase missing videos if their folder is not empty. A drive that is not connected leaves no folder,
            or an empty one.
        folders: erase all missing videos below these folders.
    """

    everywhere: bool = True
    folders: Sequence[Path] = ()

    def includes(self, video: str) -> bool:
        """Return whether to erase the video at a path."""
        if not is_gone(video):
            return False
        is_named = any(Path(video).is_relative_to(folder.absolute()) for folder in self.folders)
        return is_named or (self.everywhere and not is_folder_gone(video))


def absent_videos(index: TrackIndex) -> list[str]:
    """Find the missing videos of an index.

    Args:
        index: the index.

    Returns:
        Paths of video files that do not exist, or are on a drive that is not connected.
    """
    return [path for path, record in index.records().items() if record.is_absent]


def remove_absent(index: TrackIndex, absent: Absent) -> dict[str, int]:
    """Erase missing videos from an index, see `erase_videos`.

    Args:
        index: the index.
        absent: choice of missing videos.

    Returns:
        The number of erased tracks by video.
    """
    return erase_videos(index, [path for path in absent_videos(index) if absent.includes(path)])
