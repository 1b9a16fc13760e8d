"""Faces in pictures and videos: detect, align, track."""

from facereel.video.align import align_face
from facereel.video.decode import Video
from facereel.video.detector import Face, make_detector
from facereel.video.find_tracks import FoundTrack, TrackSettings, find_tracks
from facereel.video.track import ShotCuts, Tracker

__all__ = [
    "Face",
    "FoundTrack",
    "ShotCuts",
    "TrackSettings",
    "Tracker",
    "Video",
    "align_face",
    "find_tracks",
    "make_detector",
]
