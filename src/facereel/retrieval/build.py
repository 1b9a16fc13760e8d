"""Tracks, or a prepared data set, into an index."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.data import Clip, FaceSet, open_prepared
from facereel.data.load import is_prepared
from facereel.engine import LOST, Engine, in_order, local
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval.encode import check_margin, encode_clip, encode_crops
from facereel.retrieval.moved_videos import reconcile
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.video.track_file import ENDING, read_about, read_tracks, to_thumbnail

# Of a longer clip of a data set so many frames are encoded, evenly spaced.
MAX_FRAMES = 30


@dataclass
class Indexed:
    """What a run of `index_source` did."""

    index: TrackIndex
    n_videos: int = 0
    n_tracks: int = 0
    """Added now."""
    n_before: int = 0
    """Videos that were in the index as they are."""
    bad: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    moved: dict[str, str] = field(default_factory=dict)
    """Videos that were in the index under another path: the path now, and before."""
    copies: dict[str, str] = field(default_factory=dict)
    """Videos that are not listed, as the index lists another one of the same content: both paths."""


class _Source(NamedTuple):
    """A video whose tracks can be read."""

    video: str
    stamp: str
    date: float | None
    source: str
    crops: Path | list[Clip]
    """Its track file, or its clips in a data set."""
    content: str | None = None
    """Of the file."""

    @property
    def record(self) -> VideoRecord:
        return VideoRecord(self.video, self.stamp, self.date, self.source, self.content)


# A video's `crops` to its tracks. Other processes can import it.
_Encode = Callable[[Any], Iterator[NewTrack]]


def index_source(
    source: Path,
    out: Path,
    model: VideoHasher,
    calibration: Sequence[tuple[float, float]] = (),
    advance: Callable[[int, int], object] = lambda done, of: None,
    keep: Callable[[TrackIndex], None] | None = None,
    engine: Engine = local,
    skip: Callable[[str], bool] = lambda video: False,
) -> Indexed:
    """Encode tracks and add them to an index; videos that are in it as they are, are left.

    A video that was moved or renamed keeps its tracks, names and groups, and copies are listed once, see `reconcile`.

    Args:
        source: a folder of track files, or one of them, as `facereel ingest` writes; or what `facereel prepare` wrote,
            of which clips are taken, or stills if it has no clips.
        out: the index, made if it is absent.
        model: that encodes.
        calibration: recorded in a new index, see `FaceSearch.threshold`.
        advance: told how many more videos are done, of how many.
        keep: called with the index before anything is encoded, see `TrackIndex.keep_codes`.
        engine: that encodes. The index is written here, in the videos' order.
        skip: whether a video is not to be added, by its path.

    Raises:
        UserError: if there is nothing to index, it does not go with the model or the index, or the disk is full.
    """
    bad: dict[str, str] = {}
    if is_prepared(source):
        about, videos, encode = _prepared(source, model)
    else:
        about, videos, encode = _track_files(source, model, bad)
    # Tracks of other settings may be added: for a search by video those count that the index was made with.
    notes = {"calibration": [list(pair) for pair in calibration], "min_face": about.pop("min_face", None)}
    index = TrackIndex.create(out, model, about, notes)
    if keep is not None:
        keep(index)
    found = reconcile(index, [video.record for video in videos])
    videos = [video for video in videos if video.video not in found.passed_over]
    videos = [video for video in videos if not (isinstance(video.crops, Path) and skip(video.video))]
    done = Indexed(index, bad=bad, moved=found.moved, copies=found.copies)
    # Of two files of the same tracks one.
    to_do = {(video.video, video.stamp): video for video in videos if index.stamp(video.video) != video.stamp}
    new = list(to_do.values())
    done.n_before = len(videos) - len(new)
    advance(done.n_before, len(videos))
    encoded = engine(partial(_encoded, encode=encode), [video.crops for video in new])
    for video, tracks in zip(new, in_order(encoded), strict=True):
        if tracks is None or isinstance(tracks, str):
            done.bad[video.source] = tracks or f"{video.video}: {LOST}"
        else:
            index.put(
                video.video,
                tracks,
                stamp=video.stamp,
                date=video.date,
                source=video.source,
                content=video.content,
            )
            done.n_videos += 1
            done.n_tracks += len(tracks)
        advance(1, len(videos))
    index.save_codes()
    return done


def _encoded(crops: Path | list[Clip], encode: _Encode) -> list[NewTrack] | str:
    """Tracks, or why they cannot be read."""
    try:
        return list(encode(crops))
    except UserError as error:
        return str(error)


def _track_files(
    source: Path, model: VideoHasher, bad: dict[str, str]
) -> tuple[dict[str, Any], list[_Source], _Encode]:
    files = sorted(source.glob(f"*{ENDING}")) if source.is_dir() else [source]
    if not files or not source.exists():
        raise UserError(f"{source} holds neither tracks nor a prepared data set: facereel ingest or prepare makes them")
    how: dict[str, Any] | None = None
    videos, min_faces = [], []
    for file in files:
        try:
            about = read_about(file)
        except UserError as error:
            bad[str(file)] = str(error)
            continue
        own = {name: about["settings"][name] for name in ("detector", "size", "margin")}
        if how is None:
            how = own
            check_margin(model, own["margin"])
        elif own != how:
            raise UserError(
                f"{file} was made with {_said(own)}, those before with {_said(how)}: facereel ingest the videos alike"
            )
        min_faces.append(about["settings"].get("min_face"))
        path = file.absolute()
        date, content = about["mtime_ns"] / 1e9, about["content"]
        videos.append(_Source(about["video"], _stamp_of(about), date, str(path), path, content))
    if how is None:
        raise UserError(f"none of the {len(files)} track files in {source} can be read: {next(iter(bad.values()))}")
    min_face = min((side for side in min_faces if side is not None), default=None)
    return {**how, "min_face": min_face}, videos, partial(_tracks_of, margin=how["margin"], model=model)


def _stamp_of(about: dict[str, Any]) -> str:
    """Of all that tracks depend on: not of where the video is and when it was touched."""
    about = {name: value for name, value in about.items() if name not in ("video", "mtime_ns")}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _tracks_of(file: Path, margin: float, model: VideoHasher) -> Iterator[NewTrack]:
    for track in read_tracks(file):
        code, _ = encode_clip(track.crops, margin, model)
        yield NewTrack(track.number, track.start_s, track.end_s, None, code, track.thumbnail)


def _prepared(source: Path, model: VideoHasher) -> tuple[dict[str, Any], list[_Source], _Encode]:
    loaded = open_prepared(source.expanduser().absolute())
    settings = loaded.about["settings"]
    preprocess = model.preprocess
    faces = loaded.face_set(margin=preprocess.margin, shift=preprocess.shift, max_frames=MAX_FRAMES)
    name = str(source.absolute())
    videos = [_Source(key, _stamp(faces, clips), None, name, clips) for key, clips in clips_by_source(faces).items()]
    how = {"detector": settings["detector"] or "mtcnn", "size": settings["size"], "margin": settings["margin"]}
    return how, videos, partial(_tracks_of_clips, faces=faces, model=model)


def clips_by_source(faces: FaceSet) -> dict[str, list[Clip]]:
    """A data set's clips, or its stills if it has no clips, in the order in which its tracks are numbered."""
    items = faces.clips or [Clip(still.person, still.source, still.key, (still.row,)) for still in faces.stills]
    by_source: dict[str, list[Clip]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item)
    return by_source


def _tracks_of_clips(clips: list[Clip], faces: FaceSet, model: VideoHasher) -> Iterator[NewTrack]:
    for number, clip in enumerate(clips):
        code, _ = encode_crops(faces.pictures(clip.rows), model)
        middle = faces.crops[torch.tensor([clip.rows[len(clip.rows) // 2]])][0]
        thumbnail = to_thumbnail(np.ascontiguousarray(middle.numpy().transpose(1, 2, 0)[:, :, ::-1]))
        yield NewTrack(number, None, None, faces.people[clip.person], code, thumbnail)


def _stamp(faces: FaceSet, clips: list[Clip]) -> str:
    """Of the crops themselves."""
    digest = hashlib.sha256()
    for clip in clips:
        crops: NDArray[np.uint8] = faces.crops[torch.tensor(clip.rows)].numpy()
        digest.update(f"{clip.key} {crops.shape}".encode())
        digest.update(crops.tobytes())
    return digest.hexdigest()


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
