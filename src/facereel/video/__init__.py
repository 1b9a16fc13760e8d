"""Faces in pictures and videos: detect, align, track."""

from facereel.video.align import align_face
from facereel.video.detector import Face, make_detector
from facereel.video.track import link_faces

__all__ = ["Face", "align_face", "link_faces", "make_detector"]
