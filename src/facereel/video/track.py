"""Faces of neighbouring frames to tracks."""

from __future__ import annotations

from collections.abc import Sequence

from facereel.video.detector import Face, overlap

# Two faces belong together when their boxes cover each other by so much of their union.
_MIN_OVERLAP = 0.3
# A face that is lost for more frames than this starts a new track.
_MAX_GAP = 5


def link_faces(frames: Sequence[Sequence[Face]]) -> list[dict[int, Face]]:
    """Link faces whose boxes overlap from frame to frame, the best pairs first.

    Args:
        frames: the faces of each frame, in time order.

    Returns:
        Tracks, the longest first: each maps frame numbers, in time order, to its face there.
    """
    tracks: list[dict[int, Face]] = []
    for i, faces in enumerate(frames):
        open_tracks = [track for track in tracks if i - max(track) <= _MAX_GAP + 1]
        pairs = [
            (overlap(track[max(track)].box, face.box), t, f)
            for t, track in enumerate(open_tracks)
            for f, face in enumerate(faces)
        ]
        used_tracks, used_faces = set(), set()
        for share, t, f in sorted(pairs, key=lambda pair: -pair[0]):
            if share >= _MIN_OVERLAP and t not in used_tracks and f not in used_faces:
                open_tracks[t][i] = faces[f]
                used_tracks.add(t)
                used_faces.add(f)
        tracks += [{i: face} for f, face in enumerate(faces) if f not in used_faces]
    return sorted(tracks, key=lambda track: -len(track))
