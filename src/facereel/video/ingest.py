"""Many videos to track files: what is done is not done again, and what is bad stops nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2

from facereel.engine import LOST, Engine, local
from facereel.errors import UserError
from facereel.video.content import is_gone
from facereel.video.decode import Video
from facereel.video.find_tracks import TrackSettings, find_tracks
from facereel.video.track_file import track_path, write_tracks
from facereel.video.track_folder import CarriedOver, carry_over, claimed, copies_among, is_done, remove_moved


@dataclass
class Ingested:
    """What a run of `ingest` did."""

    made: dict[Path, int] = field(default_factory=dict)
    """How many tracks each video has."""
    found: int = 0
    """Videos that were done before."""
    bad: dict[Path, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    cut_short: dict[Path, str] = field(default_factory=dict)
    """Videos that end before their header says; the tracks up to there are kept."""
    doubtful: dict[Path, str] = field(default_factory=dict)
    """Videos in which faces may have been missed, and why."""
    busy: list[Path] = field(default_factory=list)
    """Videos that another process was at."""
    carried: CarriedOver = field(default_factory=CarriedOver)
    """Videos whose tracks were there under another path; they are counted in `found`."""
    gone: list[Path] = field(default_factory=list)
    """Videos of track files in the folder that are not where they were."""


def ingest(
    videos: Sequence[Path],
    out: Path,
    settings: TrackSettings,
    n_workers: int = 1,
    advance: Callable[[int, int], object] = lambda done, of: None,
    engine: Engine = local,
) -> Ingested:
    """Find the tracks of videos and write a file for each.

    The tracks of a video that was moved, renamed, copied or touched are taken over from its track file, which is known
    by the video's content, see `content_of`. The track file of the old path is deleted if the video is gone there.

    Args:
        videos: files.
        out: folder of the track files. Several processes may fill it at once.
        settings: how tracks are found.
        n_workers: threads that look for faces in a video.
        advance: told how many more megabytes are done, of how many.
        engine: that does the videos.

    Raises:
        UserError: if `out` cannot be written or the disk is full: what is done by then stays.
    """
    sizes = {video: _size(video) for video in videos}
    total = sum(sizes.values())
    told = dict.fromkeys(videos, 0)

    def tell(video: Path, share: float) -> None:
        now = int(sizes[video] * min(1.0, share))
        advance(now - told[video], total)
        told[video] = now

    out.mkdir(parents=True, exist_ok=True)
    work = partial(_ingest_one, out=out.absolute(), settings=settings, n_workers=n_workers)
    if engine is local:  # which alone can be told of a part of a video
        work = partial(work, tell=tell)
    parts: dict[Path, Ingested] = {}
    carried = CarriedOver()

    def do(some: Sequence[Path]) -> None:
        before = carry_over(some, out, settings)
        carried.moved.update(before.moved)
        carried.copies.update(before.copies)
        for place, part in engine(work, some):
            parts[some[place]] = part or Ingested(bad={some[place]: LOST})
            tell(some[place], 1.0)

    try:
        copies = copies_among(videos, out, settings)
        do([video for video in videos if video not in copies])
        if copies:
            do([video for video in videos if video in copies])
        gone = remove_moved(out)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        n_done = sum(part.found + len(part.made) for part in parts.values())
        raise UserError(
            f"{what}: {out}; {n_done} of {len(videos)} videos are done, the same command goes on from there"
        ) from error
    done = _together(parts[video] for video in videos if video in parts)
    done.carried, done.gone = carried, gone
    return done


def _together(parts: Iterable[Ingested]) -> Ingested:
    done = Ingested()
    for part in parts:
        done.made |= part.made
        done.found += part.found
        done.bad |= part.bad
        done.cut_short |= part.cut_short
        done.doubtful |= part.doubtful
        done.busy += part.busy
    return done


def _ingest_one(
    video: Path,
    out: Path,
    settings: TrackSettings,
    n_workers: int,
    tell: Callable[[Path, float], object] = lambda video, share: None,
) -> Ingested:
    done = Ingested()
    try:
        _try_one(video, out, settings, n_workers, partial(tell, video), done)
    except (UserError, cv2.error) as error:
        done.bad[video] = " ".join(str(error).removeprefix(f"{video}: ").split())
    except UnicodeEncodeError:
        done.bad[video] = "its path is not UTF-8, as an index needs: rename it"
    except OSError:
        if is_gone(video):
            done.bad[video] = "the file is gone"
        elif not video.is_file() or os.access(video, os.R_OK):
            raise
        else:
            done.bad[video] = "the file cannot be read"
    return done


def _try_one(
    video: Path,
    out: Path,
    settings: TrackSettings,
    n_workers: int,
    tell: Callable[[float], object],
    done: Ingested,
) -> None:
    path = track_path(out, video)
    if is_done(path, video, settings):
        done.found += 1
        return
    with claimed(path) as is_mine:
        if not is_mine:
            done.busy.append(video)
            return
        if is_done(path, video, settings):  # by another process, since we looked
            done.found += 1
            return
        opened = Video(video)
        length = opened.announced_s

        def advance(seconds: float) -> None:
            if length:
                tell(seconds / length)

        done.made[video] = write_tracks(path, opened, find_tracks(opened, settings, n_workers, advance), settings)
        if opened.is_cut_short and length is not None:
            done.cut_short[video] = f"{opened.seen_s:.1f} of {length:.1f} s"
        if opened.faults:
            done.doubtful[video] = ", ".join(opened.faults)


def _size(video: Path) -> int:
    """In megabytes, at least 1, so that small files count too."""
    try:
        return max(1, video.stat().st_size // 1_000_000)
    except OSError:
        return 1
