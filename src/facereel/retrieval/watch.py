"""Keep an index up to date with folders of videos, by scanning them again and again."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from facereel.errors import UserError
from facereel.retrieval.index_videos import VideosReport
from facereel.storage.files import file_lock
from facereel.video.content import is_gone
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
    """Videos of the index that no longer exist and were not moved, apart from those in `missing`."""
    missing: list[Path] = field(default_factory=list)
    """Watched paths that no longer exist, like those of a drive that is not connected."""
    problem: str | None = None
    """Why the pass failed."""


@dataclass
class _Changes:
    """The result of a scan."""

    complete: dict[Path, _State]
    """All complete videos."""
    videos: list[Path]
    """Videos to process."""
    missing: set[Path]
    """Watched paths that do not exist."""


class Scanner:
    """Finds out which videos of some folders have changed since the last pass, and are complete.

    Args:
        paths: videos, and folders that are searched recursively. A missing one counts as empty.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [path.absolute() for path in paths]
        self._seen: dict[Path, _State] = {}
        self._handled: dict[Path, _State] = {}
        self._bad: dict[Path, _State] = {}
        self._copies: dict[str, str] = {}
        self._missing: set[Path] = set()
        self._waited = 0

    def scan(self) -> _Changes | None:
        """Scan the folders.

        A video that is being written is not complete until two scans find it the same. Changes wait a few scans for
        such files, since a video may be moving from a path that another one takes.

        Returns:
            The changes, or None if there is nothing to do yet.
        """
        missing = {path for path in self._paths if not path.exists()}
        seen = _states([path for path in self._paths if path not in missing])
        complete = {video: state for video, state in seen.items() if self._seen.get(video) == state}
        self._seen = seen
        changed = [video for video, state in complete.items() if self._handled.get(video) != state]
        is_any_gone = bool(self._handled.keys() - seen.keys())
        if not changed and not is_any_gone:
            self._waited = 0
            return None
        if len(complete) < len(seen) and self._waited < _PATIENCE:
            self._waited += 1
            return None
        self._waited = 0
        if is_any_gone:  # a copy may take the place of a video that is gone, so all are looked at
            changed = [video for video, state in complete.items() if self._bad.get(video) != state]
        return _Changes(complete, changed, missing)

    def handle(self, changes: _Changes, report: VideosReport) -> WatchEvent:
        """Note that a pass has processed the changes.

        Args:
            changes: result of `scan`.
            report: result of the pass. Copies that were reported before, and videos that are gone by now, are removed
                from its problems.

        Returns:
            The pass, with what is gone since the last one.
        """
        complete, index = changes.complete, report.index
        report.ingest.bad = {video: why for video, why in report.ingest.bad.items() if not is_gone(video)}
        listed = index.index.records()
        gone = [
            video
            for video in sorted(self._handled.keys() - self._seen.keys())
            if str(video) in listed and not any(video.is_relative_to(path) for path in changes.missing)
        ]
        event = WatchEvent(report, gone, sorted(changes.missing - self._missing))
        self._missing = changes.missing
        index.copies = {copy: of for copy, of in index.copies.items() if self._copies.get(copy) != of}
        self._copies |= index.copies
        self._bad = {video: state for video, state in complete.items() if self._bad.get(video) == state}
        self._bad |= {video: complete[video] for video in report.ingest.bad}
        self._handled = {video: state for video, state in complete.items() if video not in report.ingest.busy}
        return event


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
    first = scanner.scan() or _Changes({}, [], set())
    yield scanner.handle(first, update(first.videos))
    problem = None
    while True:
        time.sleep(interval_s)
        try:
            if changes := scanner.scan():
                event = scanner.handle(changes, update(changes.videos))
                problem = None
                yield event
        except (UserError, OSError) as error:
            if str(error) != problem:
                problem = str(error)
                yield WatchEvent(problem=problem)


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
    for video in find_videos(paths):
        with suppress(OSError):  # removed in the meantime
            status = video.stat()
            states[video] = status.st_size, status.st_mtime_ns
    return states
