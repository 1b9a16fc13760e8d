"""Every data set's configuration reads its layout."""

import pytest
from drawn_faces import (
    make_folder,
    make_insightface_bin,
    make_lfw,
    make_umdfaces,
    make_umdfaces_videos,
    make_youtube_celebrities,
    make_youtube_faces,
)
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


def test_every_data_config_is_tested():
    tried = {*MAKE, "orl", "lfw", "insightface_bin", "_common"}
    assert {path.stem for path in (REPOSITORY / "configs" / "data").glob("*.yaml")} == tried


@pytest.mark.parametrize("name", MAKE)
def test_config_reads_its_layout(name, tmp_path):
    MAKE[name](tmp_path)
    assert compose_data(name).root is None
    data = compose_data(name, root=str(tmp_path))
    assert data.name == name
    assert any(row.clip for row in instantiate(data.reader, skipped=Skipped()))


def test_the_stills_of_umdfaces_are_read(tmp_path):
    make_umdfaces(tmp_path, {"Ann": 2})
    data = compose_data("umdfaces", stills_root=str(tmp_path))
    assert len(list(instantiate(data.stills_reader, skipped=Skipped()))) == 2


def test_sets_of_stills_are_read(tmp_path):
    make_lfw(tmp_path, {"Ann": 2, "Bo": 1})
    data = compose_data("lfw", root=str(tmp_path / "lfw"))
    rows = list(instantiate(data.reader, skipped=Skipped()))
    assert [row.key for row in rows] == [
        f"stills/{name}.jpg" for name in ("Ann/Ann_0001", "Ann/Ann_0002", "Bo/Bo_0001")
    ]
    assert {row.central_fraction for row in rows} == {0.4545}
    make_insightface_bin(tmp_path / "lfw.bin", n_pairs=3)
    data = compose_data("insightface_bin", root=str(tmp_path / "lfw.bin"))
    assert data.detector is None
    assert len(list(instantiate(data.reader, skipped=Skipped()))) == 6
