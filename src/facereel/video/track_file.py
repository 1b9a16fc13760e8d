"""The tracks of a video in a file of their own: Parquet, a row a track, which `pandas.read_parquet` opens too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from facereel.columns import check_columns
from facereel.errors import UserError
from facereel.files import parse_json, write_beside
from facereel.video.content import content_of
from facereel.video.decode import Video
from facereel.video.detector import Image
from facereel.video.find_tracks import FoundTrack, TrackSettings
from facereel.video.image_file import Unreadable, decode_picture

ENDING = ".tracks.parquet"

# Counted up when tracks come out differently, so that old ones are not taken for new.
_VERSION = 2
_ABOUT = b"facereel"
_SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("times", pa.list_(pa.float64())),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("crops", pa.list_(pa.binary())),
        ("crop_times", pa.list_(pa.float64())),
        ("crop_qualities", pa.list_(pa.float32())),
        ("thumbnail", pa.binary()),
    ]
)

_READ = pa.schema([_SCHEMA.field(name) for name in ("number", "start_s", "end_s", "crops", "thumbnail")])

# Tracks of 10 crops of 200 pixels are about 3 MB a batch.
_AT_ONCE = 16
# Nothing of a face is lost to the eye or to an encoder, and it takes a tenth of the bytes.
_JPEG_QUALITY = 95
_THUMBNAIL_SIDE = 128
_THUMBNAIL_QUALITY = 85


class StoredTrack(NamedTuple):
    """A track as it is read back."""

    number: int
    start_s: float
    end_s: float
    crops: list[Image]
    """(S, S, 3) BGR uint8, in time order."""
    thumbnail: bytes
    """JPEG."""


def track_path(folder: Path, video: Path) -> Path:
    """Where the tracks of a video are kept: by its whole path, so that two of one name do not meet."""
    name = re.sub(r"[^\w.-]", "_", video.stem)[:60]
    return folder / f"{name}-{hashlib.sha256(str(video.absolute()).encode()).hexdigest()[:12]}{ENDING}"


def describe(video: Path, settings: TrackSettings) -> dict[str, Any]:
    """What a track file records of its video, and of how its tracks are found.

    Raises:
        OSError: if the video cannot be read.
    """
    return {"version": _VERSION, **identify(video), "settings": dataclasses.asdict(settings)}


def identify(video: Path) -> dict[str, Any]:
    """What a track file records of its video: where it is, when it was last changed, and its content.

    Raises:
        OSError: if the video cannot be read.
    """
    found = video.stat()
    return {
        "video": str(video.absolute()),
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "content": content_of(video),
    }


def is_same_method(about: Mapping[str, Any], settings: TrackSettings) -> bool:
    """Whether tracks were found as this version finds them with these settings."""
    return about.get("version") == _VERSION and about.get("settings") == dataclasses.asdict(settings)


def is_unchanged(about: Mapping[str, Any], video: Path) -> bool:
    """Whether a video has the size and the time of change that its track file records.

    Raises:
        OSError: if it is gone.
    """
    found = video.stat()
    return (about.get("bytes"), about["mtime_ns"]) == (found.st_size, found.st_mtime_ns)


def write_tracks(path: Path, video: Video, tracks: Iterable[FoundTrack], settings: TrackSettings) -> int:
    """Write tracks as they come; the file appears whole or not at all.

    Args:
        path: of the file.
        video: that they are found in.
        tracks: as `find_tracks` yields them.
        settings: that they are found with.

    Returns:
        How many.

    Raises:
        OSError: if it cannot be written.
    """
    about = describe(video.file, settings)
    n_tracks = 0
    with write_beside(path) as beside, pq.ParquetWriter(beside, _SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for n_tracks, track in enumerate(tracks, start=1):
            rows.append(_to_row(n_tracks - 1, track))
            if len(rows) == _AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        about |= {"seen_s": video.seen_s, "announced_s": video.announced_s, "is_cut_short": video.is_cut_short}
        writer.add_key_value_metadata({_ABOUT: json.dumps(about)})
    return n_tracks


def copy_tracks(path: Path, to: Path, about: Mapping[str, Any]) -> None:
    """Write the tracks of a file to another, or in place of it, which appears whole or not at all.

    Args:
        path: of the track file.
        to: of the new one.
        about: what it records of its video, in place of what `path` does.

    Raises:
        UserError: if `path` is absent or damaged.
        OSError: if `to` cannot be written.
    """
    with write_beside(to) as beside, pq.ParquetWriter(beside, _SCHEMA) as writer:
        for table in _tables(path):
            writer.write_table(table)
        writer.add_key_value_metadata({_ABOUT: json.dumps(dict(about))})


def _tables(path: Path) -> Iterator[pa.Table]:
    """All that a track file holds, a few rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_AT_ONCE):
                yield pa.Table.from_batches([batch]).cast(_SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is absent or damaged: facereel ingest makes it again") from error


def read_about(path: Path) -> dict[str, Any]:
    """What a track file records of its video and of how it was made.

    Raises:
        UserError: if it is absent, damaged, or no track file.
    """
    try:
        record = (pq.read_metadata(path).metadata or {}).get(_ABOUT)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is absent or damaged: facereel ingest makes it again") from error
    if record is None:
        raise UserError(f"{path} was not written by facereel ingest")
    try:
        about = dict(parse_json(record))
        TrackSettings(**about["settings"])
        str(about["video"]).encode()
        if type(about["video"]) is not str or type(about["mtime_ns"]) is not int or abs(about["mtime_ns"]) >= 2**63:
            raise ValueError("video or mtime_ns is of another kind")
        if type(about["content"]) is not str:
            raise ValueError("content is of another kind")
    except (UserError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: facereel ingest makes it again") from error
    return about


def read_tracks(path: Path, numbers: Iterable[int] | None = None) -> Iterator[StoredTrack]:
    """Read the tracks of a video, all or some.

    Raises:
        UserError: if the file is absent or damaged.
    """
    wanted = None if numbers is None else set(numbers)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_AT_ONCE, columns=_READ.names):
                check_columns(path, pa.Table.from_batches([batch]), _READ)
                for row in batch.to_pylist():
                    if wanted is None or row["number"] in wanted:
                        crops = [_from_jpeg(crop) for crop in row["crops"]]
                        if len({crop.shape for crop in crops}) != 1:
                            raise KeyError("crops of several sizes, or none")
                        yield StoredTrack(row["number"], row["start_s"], row["end_s"], crops, row["thumbnail"])
    except (OSError, pa.ArrowException, cv2.error, KeyError) as error:
        raise UserError(f"{path} is absent or damaged: facereel ingest makes it again") from error


def to_thumbnail(crop: Image) -> bytes:
    """A small JPEG of an (S, S, 3) BGR uint8 crop."""
    small = cv2.resize(crop, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return _to_jpeg(small, _THUMBNAIL_QUALITY)


def _to_row(number: int, track: FoundTrack) -> dict[str, Any]:
    return {
        "number": number,
        "start_s": track.start_s,
        "end_s": track.end_s,
        "times": track.times,
        "boxes": track.boxes,
        "crops": [_to_jpeg(crop.image, _JPEG_QUALITY) for crop in track.crops],
        "crop_times": [crop.seconds for crop in track.crops],
        "crop_qualities": [crop.quality for crop in track.crops],
        "thumbnail": to_thumbnail(track.best.image),
    }


def _to_jpeg(image: Image, quality: int) -> bytes:
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(content)


def _from_jpeg(content: bytes) -> Image:
    image = decode_picture(content)
    if isinstance(image, Unreadable):
        raise KeyError(image.value)
    return image
