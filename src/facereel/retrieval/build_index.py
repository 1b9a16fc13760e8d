"""Tracks, or a prepared data set, into an index."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facereel.data import Clip, FaceSet, open_prepared
from facereel.data.crop_table import is_prepared
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.parallel.executor import LOST, Engine, in_order, local
from facereel.retrieval.encode import check_margin, encode_clip, encode_crops
from facereel.retrieval.moved_videos import reconcile
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.video.track_file import ENDING, read_about, read_tracks, to_thumbnail

# Of a longer clip of a data set this many frames are encoded, evenly spaced.
MAX_FRAMES = 30


@dataclass
class IndexReport:
    """What a run of `index_source` did."""

    index: TrackIndex
    n_videos: int = 0
    n_tracks: int = 0
    """Added now."""
    n_before: int = 0
    """Videos that were up to date in the index."""
    bad: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    moved: dict[str, str] = field(default_factory=dict)
    """Videos that were in the index under another path: the path now, and before."""
    copies: dict[str, str] = field(default_factory=dict)
    """Videos that are not listed, as the index lists another one of the same content: both paths."""


@dataclass(frozen=True)
class IndexOptions:
    """How `index_source` makes and changes an index.

    Args:
        calibration: recorded in a new index, see `FaceSearch.threshold`.
        prepare: called with the index before anything is encoded, as with `TrackIndex.set_backend`.
        skip: whether a video file is not to be added, by its path.
    """

    calibration: Sequence[tuple[float, float]] = ()
    prepare: Callable[[TrackIndex], None] = lambda index: None
    skip: Callable[[str], bool] = lambda video: False


_DEFAULTS = IndexOptions()


# A video whose tracks can be read, and its track file, or its clips in a data set.
_Video = tuple[VideoRecord, Path | list[Clip]]


@dataclass
class _Source:
    """What can be indexed."""

    about: dict[str, Any]
    """How faces were found and cropped."""
    videos: list[_Video]
    encode: Callable[[Any], Iterator[NewTrack]]
    """A video's crops to its tracks. Other processes can import it."""
    min_face: int | None = None
    bad: dict[str, str] = field(default_factory=dict)


def index_source(
    source: Path,
    out: Path,
    model: VideoHasher,
    options: IndexOptions = _DEFAULTS,
    *,
    advance: Callable[[int, int], object] = lambda done, of: None,
    engine: Engine = local,
) -> IndexReport:
    """Encode tracks and add them to an index, except for videos that are up to date in it.

    A video that was moved or renamed keeps its tracks, names and groups, and copies are listed once, see `reconcile`.

    Args:
        source: a folder of track files, or one of them, as `facereel ingest` writes; or what `facereel prepare` wrote,
            of which clips are taken, or stills if it has no clips.
        out: the index, made if it is absent.
        model: that encodes.
        options: how the index is made and changed.
        advance: called with how many more videos are done, and of how many.
        engine: that encodes. The index is written in this process, in the videos' order.

    Raises:
        UserError: if there is nothing to index, it does not go with the model or the index, or the disk is full.
    """
    opened = _prepared(source, model) if is_prepared(source) else _track_files(source, model)
    # Tracks of another min_face may be added: a search by video uses that with which the index was made.
    notes = {"calibration": [list(pair) for pair in options.calibration], "min_face": opened.min_face}
    index = TrackIndex.create(out, model, opened.about, notes)
    options.prepare(index)
    found = reconcile(index, [record for record, _ in opened.videos])
    videos = [
        (record, crops)
        for record, crops in opened.videos
        if record.path not in found.passed_over and not (isinstance(crops, Path) and options.skip(record.path))
    ]
    # Of two files of the same tracks one.
    new = {
        (record.path, record.fingerprint): (record, crops)
        for record, crops in videos
        if index.fingerprint(record.path) != record.fingerprint
    }
    done = IndexReport(index, n_before=len(videos) - len(new), bad=opened.bad, moved=found.moved, copies=found.copies)
    advance(done.n_before, len(videos))
    encoded = engine(partial(_encoded, encode=opened.encode), [crops for _, crops in new.values()])
    for (record, _), tracks in zip(new.values(), in_order(encoded), strict=True):
        if tracks is None or isinstance(tracks, str):
            done.bad[record.source] = tracks or f"{record.path}: {LOST}"
        else:
            index.upsert_video(record, tracks)
            done.n_videos += 1
            done.n_tracks += len(tracks)
        advance(1, len(videos))
    index.save_codes()
    return done


def _encoded(crops: Path | list[Clip], encode: Callable[[Any], Iterator[NewTrack]]) -> list[NewTrack] | str:
    """Tracks, or why they cannot be read."""
    try:
        return list(encode(crops))
    except UserError as error:
        return str(error)


def _track_files(source: Path, model: VideoHasher) -> _Source:
    files = sorted(source.glob(f"*{ENDING}")) if source.is_dir() else [source]
    if not files or not source.exists():
        raise UserError(f"{source} holds neither tracks nor a prepared data set: facereel ingest or prepare makes them")
    how: dict[str, Any] = {}
    videos: list[_Video] = []
    min_faces, bad = [], {}
    for file in files:
        try:
            about = read_about(file)
        except UserError as error:
            bad[str(file)] = str(error)
            continue
        own = {name: about["settings"][name] for name in ("detector", "size", "margin")}
        if how and own != how:
            raise UserError(
                f"{file} was made with {_listed(own)}, those before with {_listed(how)}: facereel ingest all videos "
                "with the same settings"
            )
        how = own
        min_faces.append(about["settings"].get("min_face"))
        path = file.absolute()
        record = VideoRecord(about["video"], _fingerprint(about), about["mtime_ns"] / 1e9, str(path), about["content"])
        videos.append((record, path))
    if not how:
        raise UserError(f"none of the {len(files)} track files in {source} can be read: {next(iter(bad.values()))}")
    check_margin(model, how["margin"])
    encode = partial(_tracks_of_file, margin=how["margin"], model=model)
    return _Source(how, videos, encode, min((side for side in min_faces if side is not None), default=None), bad)


def _fingerprint(about: dict[str, Any]) -> str:
    """Of all that tracks depend on: not of where the video is and when it was changed."""
    about = {name: value for name, value in about.items() if name not in ("video", "mtime_ns")}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _tracks_of_file(file: Path, margin: float, model: VideoHasher) -> Iterator[NewTrack]:
    for track in read_tracks(file):
        code, _ = encode_clip(track.crops, margin, model)
        yield NewTrack(track.number, track.start_s, track.end_s, None, code, track.thumbnail)


def _prepared(source: Path, model: VideoHasher) -> _Source:
    loaded = open_prepared(source.expanduser().absolute())
    settings = loaded.about["settings"]
    faces = loaded.face_set(
        margin=model.preprocess.margin, vertical_offset=model.preprocess.vertical_offset, max_frames=MAX_FRAMES
    )
    videos: list[_Video] = [
        (VideoRecord(name, _fingerprint_of_clips(faces, clips), None, str(source.absolute())), clips)
        for name, clips in clips_by_source(faces).items()
    ]
    about = {"detector": settings["detector"] or "mtcnn", "size": settings["size"], "margin": settings["margin"]}
    return _Source(about, videos, partial(_tracks_of_clips, faces=faces, model=model))


def clips_by_source(faces: FaceSet) -> dict[str, list[Clip]]:
    """A data set's clips, or its stills if it has no clips, in the order in which its tracks are numbered."""
    items = faces.clips or [Clip(still.person, still.source, still.key, (still.row,)) for still in faces.stills]
    by_source: dict[str, list[Clip]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item)
    return by_source


def _tracks_of_clips(clips: list[Clip], faces: FaceSet, model: VideoHasher) -> Iterator[NewTrack]:
    for number, clip in enumerate(clips):
        code, _ = encode_crops(faces.images(clip.rows), model)
        middle = faces.crops[torch.tensor([clip.rows[len(clip.rows) // 2]])][0]
        thumbnail = to_thumbnail(np.ascontiguousarray(middle.numpy().transpose(1, 2, 0)[:, :, ::-1]))
        yield NewTrack(number, None, None, faces.people[clip.person], code, thumbnail)


def _fingerprint_of_clips(faces: FaceSet, clips: list[Clip]) -> str:
    """Of the crops themselves."""
    digest = hashlib.sha256()
    for clip in clips:
        crops = faces.crops[torch.tensor(clip.rows)].numpy()
        digest.update(f"{clip.key} {crops.shape}".encode())
        digest.update(crops.tobytes())
    return digest.hexdigest()


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
