"""Every data set's configuration reads its layout."""

import pytest
from conftest import REPOSITORY
from drawn_faces import make_folder, make_umdfaces, make_umdfaces_videos, make_youtube_celebrities, make_youtube_faces
from hydra.utils import instantiate
from omegaconf import OmegaConf

from facereel.data import Skipped

MAKE = {
    "folder": lambda root: make_folder(root, n_people=1),
    "umdfaces": lambda root: make_umdfaces_videos(root, {"Ann": 1}),
    "youtube_celebrities": lambda root: make_youtube_celebrities(root, {"ann": 1}),
    "youtube_faces": lambda root: make_youtube_faces(root, {"Ann": 1}),
}


def config_of(name):
    return OmegaConf.create({"data": OmegaConf.load(REPOSITORY / "configs" / "data" / f"{name}.yaml")})


def test_every_configuration_is_tried():
    assert {path.stem for path in (REPOSITORY / "configs" / "data").glob("*.yaml")} == {*MAKE, "orl"}


@pytest.mark.parametrize("name", MAKE)
def test_a_configuration_reads_its_layout(name, tmp_path):
    MAKE[name](tmp_path)
    config = config_of(name)
    assert config.data.name == name
    assert OmegaConf.is_missing(config.data, "root")
    config.data.root = str(tmp_path)
    assert any(row.clip for row in instantiate(config.data.reader, skipped=Skipped()))


def test_the_stills_of_umdfaces_are_read(tmp_path):
    make_umdfaces(tmp_path, {"Ann": 2})
    config = config_of("umdfaces")
    config.data.stills_root = str(tmp_path)
    assert len(list(instantiate(config.data.stills_reader, skipped=Skipped()))) == 2
