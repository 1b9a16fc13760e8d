"""Paths of files that are written per video."""

from collections.abc import Iterable
from pathlib import Path


def files_of_videos(folder: Path, videos: Iterable[str], ending: str) -> dict[str, Path]:
    """Return a path per video below a folder, all different.

    Args:
        folder: the folder.
        videos: absolute paths of videos.
        ending: added to the video's file name.

    Returns:
        The path by video: its path below the deepest folder that all videos share.

    Examples:
        >>> files_of_videos(Path("out"), ["/films/a/x.mp4", "/films/b/x.mp4"], ".json")["/films/b/x.mp4"].as_posix()
        'out/b/x.mp4.json'
    """
    parts = {video: _parts(video) or ("video",) for video in videos}
    n_shared = 0
    folders = [one[:-1] for one in parts.values()]
    while folders and all(len(one) > n_shared for one in folders) and len({one[n_shared] for one in folders}) == 1:
        n_shared += 1
    return {video: folder.joinpath(*one[n_shared:-1], f"{one[-1]}{ending}") for video, one in parts.items()}


def _parts(video: str) -> tuple[str, ...]:
    """Return the parts of a path; without ".", ".." and slashes, so that no file is written outside the folder."""
    path = Path(video)
    drive = (path.drive.replace(":", ""),) if path.drive else ()
    return *drive, *(part for part in path.parts[1 if path.anchor else 0 :] if part not in ("..", "."))
