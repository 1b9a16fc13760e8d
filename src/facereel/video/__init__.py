"""Faces in images and videos: detect, align, track."""

from facereel.video.align import align_face
from facereel.video.decode import Video
from facereel.video.detector import Face, make_detector
from facereel.video.find_tracks import FoundTrack, TrackSettings, find_tracks
from facereel.video.track import ShotChanges, Tracker

__all__ = [
    "Face",
    "FoundTrack",
    "ShotChanges",
    "TrackSettings",
    "Tracker",
    "Video",
    "align_face",
    "find_tracks",
    "make_detector",
]
