"""Add tracks or a prepared data set to an index."""

import copy
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facereel.data import Clip, FaceSet, open_prepared
from facereel.data.crop_table import is_prepared
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.parallel.executor import LOST, Engine, in_order, local
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.encode import check_margin, encode_clips, has_features, to_images
from facereel.retrieval.moved_videos import reconcile
from facereel.retrieval.track_features import FIT_TRACKS
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.video.track_file import ENDING, fingerprint_of, read_about, read_tracks, to_thumbnail

# Maximum number of frames to encode of a clip in a data set; longer clips are sampled evenly.
MAX_FRAMES = 30


@dataclass
class IndexReport:
    """The result of `index_source`."""

    index: TrackIndex
    n_videos: int = 0
    n_tracks: int = 0
    """Number of tracks added."""
    n_before: int = 0
    """Number of videos that were up to date in the index."""
    bad: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, and why."""
    moved: dict[str, str] = field(default_factory=dict)
    """The old path of each video that was in the index under another path."""
    was_fitted: bool = False
    """Whether the codes of all tracks were fitted to the index, which now has enough tracks."""
    copies: dict[str, str] = field(default_factory=dict)
    """For each video that is not added because it is a copy, the path of the indexed video with the same content."""


@dataclass(frozen=True)
class IndexOptions:
    """Options of `index_source`.

    Args:
        calibration: calibration of the model's distances, stored in a new index.
        prepare: called with the index before anything is encoded, for example to call `TrackIndex.set_backend`.
        codes_only: do not store features in a new index.
        device: device that encodes the crops, and that finds faces in `index_videos`. The index and its model do not
            depend on it, but tracks and codes may differ slightly, since devices round differently.
    """

    calibration: Calibration | None = None
    prepare: Callable[[TrackIndex], None] = lambda index: None
    codes_only: bool = False
    device: torch.device | str = "cpu"

    def place(self, model: VideoHasher) -> VideoHasher:
        """Return the model, or a copy of it on the device."""
        return model if model.device == torch.device(self.device) else copy.deepcopy(model).to(self.device)


_DEFAULTS = IndexOptions()


# A video with readable tracks, and its track file, or its clips in a data set.
_Video = tuple[VideoRecord, Path | list[Clip]]


@dataclass
class _Source:
    """The videos to index."""

    about: dict[str, Any]
    """Settings with which faces were found and cropped."""
    videos: list[_Video]
    encode: Callable[[Any], Iterator[NewTrack]]
    """Converts a video's crops to tracks. Other processes can import it."""
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
        source: a folder of track files, or a track file, written by `ingest`; or a folder written by `prepare`. Its
            clips are indexed, or its stills if it has no clips.
        out: folder of the index, created if it does not exist.
        model: model that encodes the crops.
        options: options of the index.
        advance: called with the number of videos done since the last call, and the total.
        engine: executor that encodes. The index is written in this process, in the videos' order.

    Returns:
        The index, and what was added.

    Raises:
        UserError: if there is nothing to index, if it does not fit the model or the index, or if the disk is full.
    """
    encoder = options.place(model)
    opened = _prepared(source, encoder) if is_prepared(source) else _track_files(source, encoder)
    # Tracks with another min_face may be added: a search by video uses the one with which the index was created.
    index = open_index(out, model, opened.about, options, {"min_face": opened.min_face})
    found = reconcile(index, [record for record, _ in opened.videos])
    videos = [(record, crops) for record, crops in opened.videos if record.path not in found.passed_over]
    # If two files have the same tracks, only one is indexed.
    new = {
        (record.path, record.fingerprint): (record, crops)
        for record, crops in videos
        if index.fingerprint(record.path) != record.fingerprint
    }
    done = IndexReport(index, n_before=len(videos) - len(new), bad=opened.bad, moved=found.moved, copies=found.copies)
    advance(done.n_before, len(videos))
    encoded = engine(partial(encode_video, encode=opened.encode), [crops for _, crops in new.values()])
    for (record, _), tracks in zip(new.values(), in_order(encoded), strict=True):
        if tracks is None or isinstance(tracks, str):
            done.bad[record.source] = tracks or f"{record.path}: {LOST}"
        else:
            index.upsert_video(record, tracks)
            done.n_videos += 1
            done.n_tracks += len(tracks)
        advance(1, len(videos))
    finish(done)
    return done


def is_indexable(source: Path) -> bool:
    """Return whether `index_source` takes a path: a track file, a folder of track files, or a prepared data set.

    Args:
        source: the path, which may not exist.
    """
    return source.name.endswith(ENDING) or is_prepared(source) or next(source.glob(f"*{ENDING}"), None) is not None


def open_index(
    out: Path, model: VideoHasher, about: dict[str, Any], options: IndexOptions, notes: dict[str, Any]
) -> TrackIndex:
    """Create an index, or open an existing one.

    Args:
        out: folder of the index.
        model: model that encodes the crops.
        about: detector, size and margin of the crops; see `TrackIndex.create`.
        options: options of the index.
        notes: more metadata of a new index.

    Returns:
        The index, prepared by the options.

    Raises:
        UserError: if the existing index has another model or other settings.
    """
    features = has_features(model) and not options.codes_only
    calibration = options.calibration and asdict(options.calibration)
    index = TrackIndex.create(out, model, about, {"calibration": calibration, "features": features, **notes})
    options.prepare(index)
    return index


def finish(done: IndexReport) -> None:
    """Fit the codes if the index has enough tracks for the first time, and save them.

    Args:
        done: the report of what was added, which is changed.

    Raises:
        UserError: if the index cannot be written.
    """
    index = done.index
    if index.has_features and "fitted_to" not in index.about and len(index) >= FIT_TRACKS:
        try:
            index.refit()
        except UserError:
            if "fitted_to" not in index.about:
                raise
        else:  # otherwise another process fitted them in the meantime
            done.was_fitted = True
    index.save_codes()


def encode_video(crops: Path | list[Clip], encode: Callable[[Any], Iterator[NewTrack]]) -> list[NewTrack] | str:
    """Encode a video.

    Args:
        crops: its track file, or its clips in a data set.
        encode: converts the crops to tracks.

    Returns:
        The tracks, or why they cannot be read.
    """
    try:
        return list(encode(crops))
    except UserError as error:
        return str(error)


def _track_files(source: Path, model: VideoHasher) -> _Source:
    files = sorted(source.glob(f"*{ENDING}")) if source.is_dir() else [source]
    if not files or not source.exists():
        raise UserError(
            f"{source} has neither tracks nor a prepared data set: create them with facereel ingest or prepare"
        )
    how: dict[str, Any] = {}
    videos: list[_Video] = []
    min_faces, bad = [], {}
    for file in files:
        try:
            about = read_about(file)
        except UserError as error:
            bad[str(file)] = str(error)
            continue
        own = crop_settings(about["settings"])
        if how and own != how:
            raise UserError(
                f"{file} was made with {_listed(own)}, other track files with {_listed(how)}: run facereel ingest for "
                "all videos with the same settings"
            )
        how = own
        min_faces.append(about["settings"].get("min_face"))
        videos.append((record_of(about, file), file.absolute()))
    if not how:
        raise UserError(f"none of the {len(files)} track files in {source} can be read: {next(iter(bad.values()))}")
    check_margin(model, how["margin"])
    encode = partial(tracks_of_file, margin=how["margin"], model=model)
    return _Source(how, videos, encode, min((side for side in min_faces if side is not None), default=None), bad)


def crop_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all tracks of an index share.

    Args:
        settings: the fields of `TrackSettings`.

    Returns:
        Detector, size and margin.
    """
    return {name: settings[name] for name in ("detector", "size", "margin")}


def record_of(about: dict[str, Any], file: Path) -> VideoRecord:
    """Describe the video of a track file for an index.

    Args:
        about: metadata of the track file.
        file: the track file.

    Returns:
        The metadata of the video.
    """
    source = str(file.absolute())
    return VideoRecord(about["video"], fingerprint_of(about), about["mtime_ns"] / 1e9, source, about["content"])


def tracks_of_file(file: Path, margin: float, model: VideoHasher) -> Iterator[NewTrack]:
    """Encode the tracks of a track file.

    Args:
        file: the track file.
        margin: margin of its crops.
        model: model that encodes the crops.

    Yields:
        The tracks.

    Raises:
        UserError: if the file is missing or damaged, or the model's scores are not finite.
    """
    tracks, others = tee(read_tracks(file))
    images = (to_images(track.crops, margin, model) for track in others)
    for track, made in zip(tracks, encode_clips(images, model), strict=True):
        yield NewTrack(track.number, track.start_s, track.end_s, None, made.code, track.thumbnail, made.feature)


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
    """Group the clips of a data set by source.

    Args:
        faces: the data set; if it has no clips, its stills are used.

    Returns:
        The clips of each source, in the order in which tracks are numbered.
    """
    items = faces.clips or [Clip(still.person, still.source, still.key, (still.row,)) for still in faces.stills]
    by_source: dict[str, list[Clip]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item)
    return by_source


def _tracks_of_clips(clips: list[Clip], faces: FaceSet, model: VideoHasher) -> Iterator[NewTrack]:
    encoded = encode_clips((faces.images(clip.rows) for clip in clips), model)
    for number, (clip, made) in enumerate(zip(clips, encoded, strict=True)):
        middle = faces.crops[torch.tensor([clip.rows[len(clip.rows) // 2]])][0]
        thumbnail = to_thumbnail(np.ascontiguousarray(middle.numpy().transpose(1, 2, 0)[:, :, ::-1]))
        yield NewTrack(number, None, None, faces.people[clip.person], made.code, thumbnail, made.feature)


def _fingerprint_of_clips(faces: FaceSet, clips: list[Clip]) -> str:
    """Return a hash of the crops."""
    digest = hashlib.sha256()
    for clip in clips:
        crops = faces.crops[torch.tensor(clip.rows)].numpy()
        digest.update(f"{clip.key} {crops.shape}".encode())
        digest.update(crops.tobytes())
    return digest.hexdigest()


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
