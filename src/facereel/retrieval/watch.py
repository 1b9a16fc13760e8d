"""Keep an index up to date with folders of videos, by scanning them again and again."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from facereel.errors import UserError
from facereel.retrieval.index_videos import VideosReport
from facereel.storage.files import file_lock
from facereel.video.find_videos import find_videos

_LOCK = ".watch.lock"
# Seconds between the first two scans, if the interval is longer.
_FIRST_S = 2.0
# Number of scans for which a change waits for files that are still being moved or written.
_PATIENCE = 3

# Size and modification time in nanoseconds: a file in which both stay the same is complete.
_State = tuple[int, int]


@dataclass
class WatchEvent:
    """What one pass of `watch` did."""

    report: VideosReport | None = None
    """What was found and added; None if the pass failed."""
    gone: list[Path] = field(default_factory=list)
    """Videos that no longer exist, and were not moved."""
    problem: str | None = None
    """Why the pass failed."""


class Scanner:
    """Finds out which videos of some folders have changed since the last pass, and are complete.

    Args:
        paths: videos, and folders that are searched recursively. A missing one counts as empty.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen: dict[Path, _State] = {}
        self._handled: dict[Path, _State] = {}
        self._bad: dict[Path, _State] = {}
        self._waited = 0

    def scan(self) -> dict[Path, _State] | None:
        """Scan the folders.

        A video that is being written is not complete until two scans find it the same. Changes wait a few scans for
        such files, since a video may be moving from a path that another one takes.

        Returns:
            The complete videos with their states, or None if there is nothing to do.
        """
        seen = _states(self._paths)
        complete = {video: state for video, state in seen.items() if self._seen.get(video) == state}
        self._seen = seen
        changed = any(self._handled.get(video) != state for video, state in complete.items())
        if not changed and self._handled.keys() <= seen.keys():
            self._waited = 0
            return None
        if len(complete) < len(seen) and self._waited < _PATIENCE:
            self._waited += 1
            return None
        self._waited = 0
        return complete

    def readable(self, complete: dict[Path, _State]) -> list[Path]:
        """Return the videos without those that could not be read before and are unchanged since."""
        return [video for video, state in complete.items() if self._bad.get(video) != state]

    def handle(self, complete: dict[Path, _State], report: VideosReport) -> list[Path]:
        """Note that a pass has processed videos.

        Args:
            complete: result of `scan`.
            report: result of the pass.

        Returns:
            Videos that are gone since the last pass, and were not moved.
        """
        moved = set(report.index.moved.values())
        gone = sorted(video for video in self._handled.keys() - self._seen.keys() if str(video) not in moved)
        self._bad = {video: state for video, state in complete.items() if self._bad.get(video) == state}
        self._bad |= {video: complete[video] for video in report.ingest.bad}
        self._handled = {video: state for video, state in complete.items() if video not in report.ingest.busy}
        return gone


def watch(
    paths: Sequence[Path], update: Callable[[list[Path]], VideosReport], interval_s: float = 10.0
) -> Iterator[WatchEvent]:
    """Update an index whenever the videos in folders change, without end.

    Scans work on network drives too, which do not report changes. A pass that fails is repeated after the next scan;
    its problem is reported once.

    Args:
        paths: videos, and folders that are searched recursively.
        update: adds videos to the index, as `index_videos` does.
        interval_s: seconds between two scans.

    Yields:
        What each pass did; the first one always runs.

    Raises:
        UserError: if a path does not exist at the start, or the first pass fails.
        OSError: if the first pass fails.
    """
    find_videos(paths)
    scanner = Scanner(paths)
    scanner.scan()
    time.sleep(min(_FIRST_S, interval_s))
    problem = None
    is_first = True
    while True:
        complete = scanner.scan()
        if complete is None and is_first:
            complete = {}
        if complete is not None:
            try:
                report = update(scanner.readable(complete))
            except (UserError, OSError) as error:
                if is_first:
                    raise
                if str(error) != problem:
                    problem = str(error)
                    yield WatchEvent(problem=problem)
            else:
                problem = None
                yield WatchEvent(report, scanner.handle(complete, report))
                is_first = False
        time.sleep(interval_s)


@contextmanager
def watching(out: Path) -> Iterator[None]:
    """Lock an index for `watch` until the block or the process ends.

    Args:
        out: folder of the index, created if it does not exist.

    Raises:
        UserError: if another process watches for this index.
    """
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / _LOCK) as held:
        if held is None:
            raise UserError(f"another process keeps the index in {out} up to date: stop it first")
        yield


def _states(paths: Sequence[Path]) -> dict[Path, _State]:
    states = {}
    for video in find_videos([path for path in paths if path.exists()]):
        with suppress(OSError):  # removed in the meantime
            status = video.stat()
            states[video] = status.st_size, status.st_mtime_ns
    return states
