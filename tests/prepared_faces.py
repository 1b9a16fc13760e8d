"""A small data set of drawn faces, and the prepare command called on it."""

import pytest
from commands import run
from drawn_faces import make_stills, make_youtube_faces

PEOPLE = {"Ann_Lee": 3, "Bo_Öz": 3, "Cy": 2}
# For speed: drawn faces are not found by a detector.
NO_DETECTOR = ("--detector", "none", "--workers", "1")


def make_trees(root):
    """YouTube Faces in ROOT/ytf and stills of some of its people, and of a stranger, in ROOT/lfw."""
    make_youtube_faces(root / "ytf", PEOPLE)
    make_stills(root / "lfw", {"Ann_Lee": 2, "Bo_Öz": 1, "Stranger": 2})
    return root


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    return make_trees(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def prepare(trees, tmp_path, capsys):
    def call(*options, source="youtube_faces", root=trees / "ytf", code=0):
        assert run("prepare", source, root, tmp_path / "out", *NO_DETECTOR, *options) == code
        return capsys.readouterr()

    return call
