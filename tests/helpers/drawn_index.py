"""An index of drawn faces whose codes are chosen, with the track files that its crops are in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from drawn_faces import draw_face

from facereel import VideoHasher
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.video.find_tracks import Crop, FoundTrack, TrackSettings
from facereel.video.track_file import read_tracks, track_path, write_tracks

N_BITS = 64
SIDE = 32


class Seen(NamedTuple):
    """Somebody from one second to another."""

    face: int
    start_s: float
    end_s: float
    name: str | None = None


def code_of(face: int, track: int) -> torch.Tensor:
    """(64,) bool: of one face 4 bits of any two differ at most, of two about half."""
    code = np.random.default_rng(face).random(N_BITS) < 0.5
    code[np.random.default_rng(1000 + track).choice(N_BITS, 2, replace=False)] ^= True
    return torch.from_numpy(code)


def make_index(root: Path, videos: dict[str, list[Seen]], n_crops: int = 3) -> TrackIndex:
    """ROOT/index, ROOT/tracks, and ROOT/films with a file for each video."""
    torch.manual_seed(0)
    model = VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", "size": SIDE},
            "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.SharedHead", "n_bits": N_BITS},
        }
    )
    index = TrackIndex.create(root / "index", model, {"detector": "mtcnn", "size": SIDE, "margin": 1.2})
    random = np.random.default_rng(0)
    (root / "tracks").mkdir(exist_ok=True)
    n_tracks = 0
    for name, sightings in videos.items():
        film = root / "films" / name
        film.parent.mkdir(exist_ok=True)
        film.write_bytes(b"a film")
        tracks = []
        for seen in sightings:
            times = np.linspace(seen.start_s, seen.end_s, n_crops).tolist()
            crops = [Crop(time, 0.5, draw_face(seen.face, random, SIDE)) for time in times]
            tracks.append(FoundTrack(times, [(0.0, 0.0, 9.0, 9.0)] * n_crops, crops))
        video: Any = SimpleNamespace(file=film, seen_s=9.0, announced_s=9.0, is_truncated=False)
        path = track_path(root / "tracks", film)
        write_tracks(path, video, tracks, TrackSettings(size=SIDE, margin=1.2))
        stored = list(read_tracks(path))
        new = [
            NewTrack(t.number, t.start_s, t.end_s, seen.name, code_of(seen.face, n_tracks + i), t.thumbnail)
            for i, (t, seen) in enumerate(zip(stored, sightings, strict=True))
        ]
        index.upsert_video(VideoRecord(str(film), "1", 0.0, str(path)), new)
        n_tracks += len(new)
    return index
