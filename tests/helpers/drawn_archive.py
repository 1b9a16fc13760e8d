"""An index of videos of drawn people, made as the commands make one, in seconds."""

import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from films import make_film

from facereel import models
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.encode import encode_clip
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.video import TrackSettings, Video, find_tracks

# Drawn faces are more alike than real ones: one person's are up to 0.03 apart, two people's 0.08 and more.
CALIBRATION = Calibration(22.0, 400.0)


class Clip(NamedTuple):
    """A video to be drawn."""

    file: str
    people: tuple[str, ...]
    appear_s: float
    day: str


CLIPS = (
    Clip("holiday/lake.webm", ("Anna",), 1.5, "2024-05-01"),
    Clip("holiday/picnic.webm", ("Bert", "Dora"), 0.0, "2024-07-15"),
    Clip("work/meeting.webm", ("Anna", "Bert"), 0.5, "2025-02-03"),
    Clip("work/interview.avi", ("Emil",), 0.0, "2025-03-10"),
    Clip("work/stand-up.mov", ("Dora",), 0.0, "2025-09-09"),
)


def make_index(folder: Path, clips: tuple[Clip, ...] = CLIPS, seconds: float = 5.0) -> Path:
    """FOLDER/videos with the clips, and FOLDER/index; each person's tracks are in a group of their own."""
    model = models.pretrained_hasher()
    settings = TrackSettings()
    about = {
        "detector": settings.detector,
        "size": settings.size,
        "margin": settings.margin,
        "calibration": asdict(CALIBRATION),
        "features": True,
    }
    index = TrackIndex.create(folder / "index", model, about)
    for clip in clips:
        path = folder / "videos" / clip.file
        make_film(path, *clip.people, seconds=seconds, appear_s=clip.appear_s, seed=len(clip.file))
        date = datetime.fromisoformat(f"{clip.day}T12:00:00").timestamp()
        os.utime(path, (date, date))
        tracks = []
        for number, track in enumerate(find_tracks(Video(path), settings)):
            code, _, feature, _ = encode_clip([crop.image for crop in track.crops], settings.margin, model)
            thumbnail = cv2.imencode(".jpg", track.best.image)[1].tobytes()
            tracks.append(NewTrack(number, track.start_s, track.end_s, None, code, thumbnail, feature))
        assert len(tracks) == len(clip.people), (clip, len(tracks))
        index.upsert_video(VideoRecord(str(path), "drawn", date, "drawn"), tracks)
    index.set_clusters(_clusters(index))
    return folder


def _clusters(index: TrackIndex) -> dict[int, int]:
    """Tracks nearer to each other than the threshold, by the first of each group."""
    clusters: dict[int, int] = {}
    for track in index.tracks():
        code, feature = index.vectors.code(track.id), torch.from_numpy(index.vectors.features([track.id])[0]).float()
        assert code is not None
        matches = index.search(code, len(index), feature=feature)
        near = [match.track.id for match in matches if match.distance <= CALIBRATION.threshold(len(index))]
        clusters[track.id] = min((clusters[i] for i in near if i in clusters), default=len(set(clusters.values())) + 1)
    return clusters
