"""Videos of an index that were moved, renamed, copied or deleted since it was made."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facereel.retrieval.track_index import TrackIndex, VideoRecord
from facereel.video.content import content_of, is_folder_gone, is_gone


@dataclass
class Reconciled:
    """Which of the videos to index are in the index under another path."""

    moved: dict[str, str] = field(default_factory=dict)
    """The path of a video now, and before."""
    copies: dict[str, str] = field(default_factory=dict)
    """The path of a video that is not listed, and of the one with the same content that is."""
    passed_over: set[str] = field(default_factory=set)
    """Paths that are not to be added: of copies, and of videos that were moved from there."""


def reconcile(index: TrackIndex, videos: Sequence[VideoRecord]) -> Reconciled:
    """Bring the paths, dates and sources of an index up to date, so that it lists each content once.

    A video that was moved keeps its tracks, their ids, names and groups. Of copies one is listed: the one that the
    index lists, or else the first by path. If this is killed, the next run completes it.

    Args:
        index: is changed; new videos are not added.
        videos: as track files record them. Those of a data set, which have no content, are left as they are.
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
    for path in done.copies.keys() & index.records().keys():  # where the index has what the file was before
        index.remove_video(path)
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
    """The path under which a content is to be listed, and the one under which it is until now, if it is.

    Args:
        content: of the videos.
        paths: that track files name.
        listed: paths under which the index lists it.
        now: what track files record of paths.
        done: gets what was moved and what is a copy.
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
    """Whether a file has a content; True if it is there and cannot be read."""
    try:
        return content_of(path) == content
    except OSError:
        return not is_gone(path)


@dataclass(frozen=True)
class Absent:
    """Which videos are erased because their files are gone.

    Args:
        everywhere: those whose folder is not empty. A drive that is not connected leaves no folder, or an empty one.
        folders: all that were below these folders.
    """

    everywhere: bool = True
    folders: Sequence[Path] = ()

    def includes(self, video: str) -> bool:
        """Whether a video is to be erased."""
        if not is_gone(video):
            return False
        is_named = any(Path(video).is_relative_to(folder.absolute()) for folder in self.folders)
        return is_named or (self.everywhere and not is_folder_gone(video))


def absent_videos(index: TrackIndex) -> list[str]:
    """The videos of an index whose files are gone, or on a drive that is not connected; none of a data set's."""
    return [path for path, record in index.records().items() if record.is_absent]


def remove_absent(index: TrackIndex, absent: Absent) -> dict[str, int]:
    """Erase videos whose files are gone.

    Returns:
        How many tracks each had.
    """
    return {path: index.remove_video(path) for path in absent_videos(index) if absent.includes(path)}
