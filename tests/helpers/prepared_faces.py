"""A small data set of drawn faces to prepare."""

from pathlib import Path

from drawn_faces import make_stills, make_youtube_faces

PEOPLE = {"Ann_Lee": 3, "Bo_Öz": 3, "Cy": 2}
# For speed: drawn faces are not found by a detector.
NO_DETECTOR = ("--detector", "none", "--workers", "1")


def make_trees(root: Path) -> Path:
    """YouTube Faces in ROOT/ytf and stills of some of its people, and of another person, in ROOT/lfw."""
    make_youtube_faces(root / "ytf", PEOPLE)
    make_stills(root / "lfw", {"Ann_Lee": 2, "Bo_Öz": 1, "Stranger": 2})
    return root
