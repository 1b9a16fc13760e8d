"""The tracks of a video in a Parquet file, one row for each track; `pandas.read_parquet` opens it too."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from facereel.errors import UserError
from facereel.storage.files import atomic_write
from facereel.storage.schema import check_schema
from facereel.storage.untrusted import parse_json
from facereel.video.content import content_of
from facereel.video.decode import Video
from facereel.video.detector import Image
from facereel.video.find_tracks import FoundTrack, TrackSettings
from facereel.video.image_file import Unreadable, decode_image, encode_jpeg

ENDING = ".tracks.parquet"

# Increase it when the code finds other tracks, so that old ones are not reused.
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

# Number of tracks in a batch: with 10 crops of 200 pixels each, a batch has about 3 MB.
_BATCH = 16
_THUMBNAIL_SIDE = 128
_THUMBNAIL_QUALITY = 85


class StoredTrack(NamedTuple):
    """A track in a track file."""

    number: int
    start_s: float
    end_s: float
    crops: list[Image]
    """(S, S, 3) BGR uint8, in time order."""
    thumbnail: bytes
    """A JPEG file."""


def track_path(folder: Path, video: Path) -> Path:
    """Return the path of a video's track file. It depends on the whole path of the video, so that names never clash."""
    name = re.sub(r"[^\w.-]", "_", video.stem)[:60]
    return folder / f"{name}-{hashlib.sha256(str(video.absolute()).encode()).hexdigest()[:12]}{ENDING}"


def identify(video: Path) -> dict[str, Any]:
    """Describe a video for its track file.

    Args:
        video: the video file.

    Returns:
        Path, size, modification time and fingerprint.

    Raises:
        OSError: if the video cannot be read.
    """
    status = video.stat()
    return {
        "video": str(video.absolute()),
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "content": content_of(video),
    }


def is_same_method(about: Mapping[str, Any], settings: TrackSettings) -> bool:
    """Return whether tracks were found by this version with these settings, according to their metadata."""
    return about.get("version") == _VERSION and about.get("settings") == dataclasses.asdict(settings)


def is_unchanged(about: Mapping[str, Any], video: Path) -> bool:
    """Return whether a video still has the size and modification time in its track file.

    Args:
        about: metadata of the track file.
        video: the video file.

    Raises:
        OSError: if the video is missing.
    """
    status = video.stat()
    return (about.get("bytes"), about["mtime_ns"]) == (status.st_size, status.st_mtime_ns)


def fingerprint_of(about: dict[str, Any]) -> str:
    """Return a hash of everything that tracks depend on, without the video's path and modification time.

    Args:
        about: metadata of the track file.
    """
    about = {name: value for name, value in about.items() if name not in ("video", "mtime_ns")}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def write_tracks(path: Path, video: Video, tracks: Iterable[FoundTrack], settings: TrackSettings) -> int:
    """Write tracks as they are found, atomically.

    Args:
        path: track file to write.
        video: the video, described in the metadata.
        tracks: tracks from `find_tracks`.
        settings: settings with which the tracks are found.

    Returns:
        The number of tracks.

    Raises:
        OSError: if the file cannot be written.
    """
    about = {"version": _VERSION, **identify(video.file), "settings": dataclasses.asdict(settings)}
    n_tracks = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for n_tracks, track in enumerate(tracks, start=1):
            rows.append(_to_row(n_tracks - 1, track))
            if len(rows) == _BATCH:
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        about |= {"seen_s": video.seen_s, "announced_s": video.announced_s, "is_truncated": video.is_truncated}
        writer.add_key_value_metadata({_ABOUT: json.dumps(about)})
    return n_tracks


def copy_tracks(path: Path, to: Path, about: Mapping[str, Any], without: Collection[int] = ()) -> None:
    """Copy tracks to another file, atomically.

    Args:
        path: track file to read.
        to: track file to write; it may be the same.
        about: new metadata.
        without: numbers of tracks to drop; the others keep their numbers.

    Raises:
        UserError: if `path` is missing or damaged.
        OSError: if `to` cannot be written.
    """
    with atomic_write(to) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        for table in _tables(path):
            is_kept = [number not in without for number in table["number"].to_pylist()]
            writer.write_table(table.filter(pa.array(is_kept, pa.bool_())))
        writer.add_key_value_metadata({_ABOUT: json.dumps(dict(about))})


@contextmanager
def _refuse_damaged(path: Path) -> Iterator[None]:
    """Convert errors of a damaged track file in the block to one-line errors.

    Raises:
        UserError: if the file cannot be read in the block.
    """
    try:
        yield
    except (OSError, pa.ArrowException, cv2.error, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is missing or damaged: run facereel ingest again") from error


def _tables(path: Path) -> Iterator[pa.Table]:
    with _refuse_damaged(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            yield pa.Table.from_batches([batch]).cast(_SCHEMA)


def read_about(path: Path) -> dict[str, Any]:
    """Read the metadata of a track file.

    Args:
        path: the track file.

    Returns:
        The video's path, size, modification time and fingerprint, and the settings.

    Raises:
        UserError: if the file is missing, damaged, or not a track file.
    """
    with _refuse_damaged(path):
        record = (pq.read_metadata(path).metadata or {}).get(_ABOUT)
        if record is None:
            raise UserError(f"{path} was not written by facereel ingest")
        about = dict(parse_json(record))
        if any(type(about[name]) is not kind for name, kind in (("video", str), ("mtime_ns", int), ("content", str))):
            raise TypeError("video, mtime_ns or content has another type")
        about["video"].encode()
        if abs(about["mtime_ns"]) >= 2**63:
            raise ValueError("mtime_ns is out of range")
        try:
            TrackSettings(**about["settings"])
        except UserError as error:
            raise ValueError("a setting is out of range") from error
    return about


def read_tracks(path: Path, numbers: Iterable[int] | None = None) -> Iterator[StoredTrack]:
    """Read the tracks of a video.

    Args:
        path: the track file.
        numbers: numbers of the tracks to read; None reads all.

    Yields:
        The tracks by number.

    Raises:
        UserError: if the file is missing or damaged.
    """
    wanted = None if numbers is None else set(numbers)
    with _refuse_damaged(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=_READ.names):
            check_schema(path, pa.Table.from_batches([batch]), _READ)
            for row in batch.to_pylist():
                if wanted is None or row["number"] in wanted:
                    crops = [_from_jpeg(crop) for crop in row["crops"]]
                    if len({crop.shape for crop in crops}) != 1:
                        raise ValueError("the crops have different sizes, or there are no crops")
                    yield StoredTrack(row["number"], row["start_s"], row["end_s"], crops, row["thumbnail"])


def to_thumbnail(crop: Image) -> bytes:
    """Return a small JPEG file of an (S, S, 3) BGR uint8 crop."""
    small = cv2.resize(crop, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return encode_jpeg(small, _THUMBNAIL_QUALITY)


def _to_row(number: int, track: FoundTrack) -> dict[str, Any]:
    return {
        "number": number,
        "start_s": track.start_s,
        "end_s": track.end_s,
        "times": track.times,
        "boxes": track.boxes,
        # Quality 95 loses no visible detail and takes a tenth of the bytes.
        "crops": [encode_jpeg(crop.image) for crop in track.crops],
        "crop_times": [crop.seconds for crop in track.crops],
        "crop_qualities": [crop.quality for crop in track.crops],
        "thumbnail": to_thumbnail(track.best.image),
    }


def _from_jpeg(content: bytes) -> Image:
    image = decode_image(content)
    if isinstance(image, Unreadable):
        raise ValueError(image.value)
    return image
