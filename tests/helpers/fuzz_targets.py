"""The files that tests/integration/test_fuzz.py changes, and what reads them."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from detectors import FixedDetector
from drawn_faces import write_python2_bin

from facereel import VideoHasher
from facereel.data import load_faces, open_prepared, read_insightface, read_umdfaces, read_youtube_faces
from facereel.data.crop_table import CropTable
from facereel.data.crops import CropSettings
from facereel.data.manifest import Manifest, Row
from facereel.data.prepare import PrepareOptions, prepare
from facereel.data.readers import read_umdfaces_videos
from facereel.data.readers.videos import read_video
from facereel.data.select import select
from facereel.errors import UserError
from facereel.evaluation.lists import read_list
from facereel.evaluation.pairs import read_lfw_pairs, read_pairs
from facereel.evaluation.protocols import IdentityDisjoint
from facereel.evaluation.report import read_curves
from facereel.evaluation.split import Split
from facereel.retrieval import code_index, face_search
from facereel.retrieval.build_index import index_source
from facereel.retrieval.clustering.groups import grouped
from facereel.retrieval.encode import encode_still
from facereel.retrieval.export_people import export_people
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.system.skipped import Skipped
from facereel.tables.results import read_published
from facereel.video import find_tracks
from facereel.video.decode import Video
from facereel.video.detector import Face, Image
from facereel.video.find_tracks import Crop, FoundTrack, TrackSettings
from facereel.video.ingest import ingest
from facereel.video.track_file import read_tracks, write_tracks


def one_line(error: UserError) -> None:
    """See that a user's error says something, in a line."""
    text = str(error)
    if not text.strip() or "Traceback" in text:
        raise AssertionError(f"an error that says nothing: {text!r}")


@dataclass
class Target:
    """A kind of files, and what reads them.

    Args:
        make: writes valid ones into a folder, and returns those to be changed.
        read: reads them in the folder, and may write into another, which is empty each time; told which one was
            changed, None if none was.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path, Path, Path | None], object]


IMAGE = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


DARK = np.zeros((16, 16, 3), np.uint8)


def _write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_labels(folder: Path) -> list[Path]:
    """YouTube Faces' labels of two people, and its pairs."""
    labels = []
    for person in ("Ann_Lee", "Bo"):
        lines = []
        for video in "01":
            for frame in (8, 9, 10):
                _write(folder / "frame_images_DB" / person / video / f"{video}.{frame}.jpg", IMAGE)
                lines.append(f"{person}\\{video}\\{video}.{frame}.jpg,0,62,42,64,62,0.0,1")
        labels.append(_write(folder / "frame_images_DB" / f"{person}.labeled_faces.txt", "\n".join(lines)))
    pairs = [
        f"{fold}, Ann_Lee/0, {second}, {same}, 1" for fold in (1, 2) for second, same in (("Ann_Lee/1", 1), ("Bo/0", 0))
    ]
    header = "split number, first name, second name, is same, is male"
    return [*labels, _write(folder / "splits.txt", "\n".join([header, *pairs]))]


def read_labels(folder: Path, out: Path, changed: Path | None) -> None:
    _each(
        lambda: _rows(read_youtube_faces(folder, Skipped()), folder),
        lambda: read_pairs(folder / "splits.txt"),
    )


def _rows(rows: Iterator[Row], folder: Path) -> None:
    manifest = Manifest.from_rows(rows)
    select(manifest, max_frames=2)
    for row in manifest:
        if not Path(row.file).resolve().is_relative_to(folder.resolve()):
            raise AssertionError(f"{row.file} lies outside")


COLUMNS: tuple[str, ...] = ("SUBJECT_ID", "FILE", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
COLUMNS += tuple(f"{name}{i}{axis}" for i in range(1, 22) for name, axis in (("P", "X"), ("P", "Y"), ("VIS", "")))


def make_tables(folder: Path) -> list[Path]:
    """UMDFaces' CSV files of stills and videos, published figures, and a training's log."""
    made = []
    for name, files in (
        ("umdfaces_batch1/umdfaces_batch1_ultraface", ("ann/ann_8.jpg", "ann/ann_9.jpg", "bo/bo_1.jpg")),
        ("videos/umdfaces_videos_ultraface", ("ann/v0/8.jpg", "ann/v0/9.jpg", "bo/v1/1.jpg")),
    ):
        table = folder / f"{name}.csv"
        lines = [", ".join(COLUMNS)]
        for file in files:
            _write(table.parent / file, IMAGE)
            lines.append(", ".join(["1", file, "1.0", "2.0", "30.5", "31", *["5.0"] * 63]))
        made.append(_write(table, "\n".join(lines)))
    published = ["row,column,task,value,source", "mean,ORL,still_to_clip,0.5,a paper", "max,ORL,clip_to_still,0.25,"]
    log = ["epoch,step,train/loss,val/mAP", "0,9,1.5,", "0,19,1.25,", "0,19,,0.5"]
    return [
        *made,
        _write(folder / "published.csv", "\n".join(published)),
        _write(folder / "run/stage1/metrics.csv", "\n".join(log)),
    ]


def read_tables(folder: Path, out: Path, changed: Path | None) -> None:
    table: Any = SimpleNamespace(rows=["mean", "max"], columns=["ORL"], tasks=["still_to_clip", "clip_to_still"])
    _each(
        lambda: _rows(read_umdfaces(folder, Skipped()), folder),
        lambda: _rows(read_umdfaces_videos(folder / "videos", Skipped()), folder),
        lambda: read_published(folder / "published.csv", table, {}),
        lambda: read_curves(folder / "run"),
    )


def _each(*reads: Callable[[], object]) -> None:
    """Read several; a mistake in one does not keep the others from being read."""
    for read in reads:
        try:
            read()
        except UserError as error:
            one_line(error)


def _film(path: Path, n_frames: int = 6) -> Path:
    codec = {".avi": "MJPG", ".mp4": "mp4v", ".mov": "mp4v", ".webm": "VP80", ".mkv": "XVID"}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(n_frames):
        writer.write(cv2.resize(random.integers(0, 255, (6, 8, 3), np.uint8), (64, 48)))
    writer.release()
    if not path.stat().st_size:
        raise RuntimeError(f"OpenCV wrote no {path.suffix}")
    return path


def make_manifests(folder: Path) -> list[Path]:
    """What prepare writes, with its split file and its crops, and a track file."""
    rows = []
    for person in ("ann", "bo", "cy"):
        for clip in "01":
            for frame in range(2):
                file = _write(folder / "images" / person / clip / f"{frame}.png", IMAGE)
                rows.append(Row(person, clip, clip, f"{person}/{clip}/{frame}.png", str(file)))
        file = _write(folder / "images" / person / "still.png", IMAGE)
        rows.append(Row(person, "", f"{person}.png", f"{person}.png", str(file)))
    about = {"source": "folder", "data": "folder", "stills": None, "people": None, "max_frames": None, "root": "x"}
    out = folder / "prepared"
    loaded = prepare(
        Manifest.from_rows(rows), Skipped(), out, PrepareOptions(CropSettings(16, 1.2, None)), about
    ).loaded
    IdentityDisjoint().split(loaded.face_set(), 0).save(folder / "split.json")
    film = _film(folder / "film.avi")
    crop = Crop(0.5, 0.5, np.zeros((16, 16, 3), np.uint8))
    tracks = [FoundTrack([0.0, 0.5], [(0.0, 0.0, 9.0, 9.0)] * 2, [crop, crop])] * 2
    video: Any = SimpleNamespace(file=film, seen_s=9.0, announced_s=9.0, is_truncated=False)
    path = folder / "film.tracks.parquet"
    write_tracks(path, video, tracks, TrackSettings(size=16, margin=1.2))
    blocks = sorted(out.glob("crops-*/*.safetensors"))
    return [out / "manifest.parquet", folder / "split.json", path, blocks[0]]


def read_manifests(folder: Path, out: Path, changed: Path | None) -> None:
    tracks = folder / "film.tracks.parquet"
    if changed in (None, tracks):
        _each(
            lambda: [track.crops for track in read_tracks(tracks)],
            lambda: index_source(tracks, out / "tracks", model(folder)),
        )
    if changed != tracks:
        _each(
            lambda: _use_prepared(open_prepared(folder / "prepared"), folder),
            lambda: list(Manifest.load(folder / "prepared" / "manifest.parquet")),
            lambda: index_source(folder / "prepared", out / "prepared", model(folder)),
        )


def _use_prepared(loaded: CropTable, folder: Path) -> None:
    faces = loaded.face_set()
    faces.lines(), faces.summary(), faces.used_rows()
    for clip in faces.clips:
        faces.images(clip.rows), faces.frames_as_stills(clip)
    for still in faces.stills:
        faces.images([still.row])
    Split.load(folder / "split.json", faces)


_MODELS: dict[Path, VideoHasher] = {}
PARTS = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 16},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.02},
    "pooling": {"_target_": "facereel.models.MeanPooling"},
    "head": {"_target_": "facereel.models.SharedHead", "n_bits": 16},
}


def model(folder: Path) -> VideoHasher:
    """A tiny one."""
    if folder not in _MODELS:
        torch.manual_seed(0)
        _MODELS[folder] = VideoHasher(PARTS).eval()
    return _MODELS[folder]


def make_index(folder: Path) -> list[Path]:
    """An index of two videos with names and groups."""
    index = TrackIndex.create(folder / "index", model(folder), {"detector": "mtcnn", "size": 16, "margin": 1.2})
    random = np.random.default_rng(0)
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    for name in ("a", "b"):
        codes = torch.from_numpy(random.random((3, 16)) < 0.5)
        new = [NewTrack(i, 1.0 * i, i + 0.5, "Ann" if i else None, code, jpeg) for i, code in enumerate(codes)]
        index.upsert_video(VideoRecord(f"/films/{name}.mp4", "1", 0.0, str(folder / f"{name}.tracks.parquet")), new)
    index.set_clusters({track.id: track.number for track in index.tracks()})
    index.set_backend("ivf")
    with patch.object(code_index, "FEWEST", 1):
        index.save_codes()
    names = ("index.sqlite", "codes-*/*.*", "model/model.json", "model/*.safetensors")
    return [*(path for name in names for path in (folder / "index").glob(name))]


def read_index(folder: Path, out: Path, changed: Path | None) -> None:
    with patch.object(face_search, "make_detector", lambda name: None):
        found = face_search.FaceSearch(folder / "index")
    index = found.index

    def look() -> None:
        if found.size <= 1024:
            crop = np.zeros((found.size, found.size, 3), np.uint8)
            code, scores = encode_still(crop, found.margin, found.model)[:2]
            found.search(face_search.Query(None, crop, code, scores), top=3)

    def look_for_more() -> None:
        for track in index.tracks()[:1]:
            found.search(found.like(track.id), per_video=False)

    def export() -> None:
        people = {group.names[0]: group.tracks for group in grouped(index.tracks()) if group.names}
        export_people(people, out / "people", lambda tracks: ((track, [DARK]) for track in tracks))

    _each(
        look,
        look_for_more,
        export,
        lambda: (len(index), index.videos(), [index.vectors.code(track.id) for track in index.tracks()]),
        lambda: [(group.proposal, group.seconds, group.n_videos) for group in grouped(index.tracks())],
        lambda: found.threshold,
    )


def make_checkpoints(folder: Path) -> list[Path]:
    """A model's folder and a training checkpoint."""
    made = model(folder)
    made.save(folder / "model")
    state = {f"hasher.{name}": value for name, value in made.state_dict().items()}
    torch.save({"hasher_config": made.config, "state_dict": state, "epoch": 3}, folder / "last.ckpt")
    return [folder / "model" / "model.json", folder / "model" / "model.safetensors", folder / "last.ckpt"]


def read_checkpoints(folder: Path, out: Path, changed: Path | None) -> None:
    if changed is None or changed.suffix == ".ckpt":
        _each(lambda: _use_model(VideoHasher.load(folder / "last.ckpt")))
    if changed is None or changed.suffix != ".ckpt":
        _each(lambda: _use_model(VideoHasher.load(folder / "model")))


def _use_model(loaded: VideoHasher) -> None:
    loaded.encode_stills(torch.zeros(1, 3, 16, 16))
    loaded.encode_clips(torch.zeros(1, 2, 3, 16, 16))
    loaded.fingerprint()


def make_videos(folder: Path) -> list[Path]:
    """A film in each container."""
    return [_film(folder / f"film{ending}") for ending in (".mp4", ".avi", ".webm", ".mkv", ".mov")]


def middle_face(image: Image) -> list[Face]:
    """Take the middle of an image for a face."""
    height, width = image.shape[:2]
    x, y, side = width / 2, height / 2, min(width, height) / 4
    points = (x - side, y - side, x + side, y - side, x, y, x - side, y + side, x + side, y + side)
    return [Face((x - 2 * side, y - 2 * side, 4 * side, 4 * side), points, 0.9)]


def read_videos(folder: Path, out: Path, changed: Path | None) -> None:
    for film in sorted(folder.glob("film.*")) if changed is None else [changed]:
        with patch.object(sys.modules[find_tracks.__module__], "make_detector", lambda *_: FixedDetector(middle_face)):
            done = ingest([film], out, TrackSettings(size=16, min_detections=1))
        for why in done.bad.values():
            one_line(UserError(why))
        rows = list(islice(read_video(film, Skipped(), person="a", clip="b", source="c", key="d"), 50))
        if rows:
            list(Video(film).frames([row.position for row in rows]))


def make_lists(folder: Path) -> list[Path]:
    """LFW's pairs, a verification set of InsightFace by Python 2 and by Python 3, and a list of train and gallery."""
    images, same = [IMAGE] * 8, [True, False] * 2
    arrays = [np.frombuffer(IMAGE, np.uint8)] * 8
    return [
        _write(folder / "pairs.txt", "2\t1\nAnn\t1\t2\nAnn\t1\tBo\t1\nBo\t1\t2\nBo\t2\tAnn\t1\n"),
        _write(folder / "list.csv", "part,key\ntrain,ann/0\ngallery,ann/0\nquery,ann/1\n"),
        write_python2_bin(folder / "strings.bin", images, same, arrays=False),
        write_python2_bin(folder / "arrays.bin", images, same, arrays=True),
        _write(folder / "python3.bin", pickle.dumps((arrays, same), 5)),
        _write(folder / "encoded.bin", pickle.dumps((images, same), 2)),
    ]


def read_lists(folder: Path, out: Path, changed: Path | None) -> None:
    def crop(file: Path) -> Callable[[], object]:
        return lambda: load_faces(read_insightface(file, Skipped()), Skipped(), size=4)

    _each(
        lambda: read_lfw_pairs(folder / "pairs.txt"),
        lambda: read_list(folder / "list.csv"),
        *(crop(file) for file in folder.glob("*.bin") if changed in (None, file)),
    )


TARGETS = {
    "lists": Target(make_lists, read_lists),
    "labels": Target(make_labels, read_labels),
    "CSV files": Target(make_tables, read_tables),
    "manifests": Target(make_manifests, read_manifests),
    "index directories": Target(make_index, read_index),
    "checkpoints": Target(make_checkpoints, read_checkpoints),
    "videos": Target(make_videos, read_videos),
}
