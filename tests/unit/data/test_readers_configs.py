"""Every data set's configuration reads its layout."""

import pytest
from drawn_faces import make_folder, make_umdfaces, make_umdfaces_videos, make_youtube_celebrities, make_youtube_faces
from drawn_ijb import make_insightface
from hydra.utils import instantiate
from repository import REPOSITORY

from facereel.config.compose import compose_data
from facereel.data import Skipped

MAKE = {
    "folder": lambda root: make_folder(root, n_people=1),
    "ijb": lambda root: make_insightface(root),
    "umdfaces": lambda root: make_umdfaces_videos(root, {"Ann": 1}),
    "youtube_celebrities": lambda root: make_youtube_celebrities(root, {"ann": 1}),
    "youtube_faces": lambda root: make_youtube_faces(root, {"Ann": 1}),
}


def test_every_configuration_is_tried():
    assert {path.stem for path in (REPOSITORY / "configs" / "data").glob("*.yaml")} == {*MAKE, "orl", "_common"}


@pytest.mark.parametrize("name", MAKE)
def test_a_configuration_reads_its_layout(name, tmp_path):
    MAKE[name](tmp_path)
    assert compose_data(name).root is None
    data = compose_data(name, root=str(tmp_path))
    assert data.name == name
    assert any(row.clip for row in instantiate(data.reader, skipped=Skipped()))


def test_the_stills_of_umdfaces_are_read(tmp_path):
    make_umdfaces(tmp_path, {"Ann": 2})
    data = compose_data("umdfaces", stills_root=str(tmp_path))
    assert len(list(instantiate(data.stills_reader, skipped=Skipped()))) == 2
