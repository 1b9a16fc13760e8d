"""The page about readers of one's own: its code runs, and its table has every field."""

import re
import sys

import numpy as np
import pytest
from drawn_faces import draw_face, write
from hydra.utils import instantiate
from omegaconf import OmegaConf
from repository import REPOSITORY

from facereel.data import Row, Skipped, load_faces

PAGE = (REPOSITORY / "docs" / "tutorials" / "custom_data.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's code as the module it names."""
    (tmp_path / "my_package.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)


@pytest.mark.usefixtures("package")
def test_reader_of_the_page_runs(tmp_path):
    root, random = tmp_path / "mine", np.random.default_rng(0)
    names = [f"{person}-{shot}-{i}.jpg" for person in ("ann", "bo") for shot in ("a", "b") for i in (9, 10)]
    for name in (*names, "cover.jpg", "bo-b-11.jpg"):
        image = np.zeros((90, 100, 3), np.uint8)
        image[10:74, 30:94] = draw_face(0, random)
        write(root / name, image)
    (root / "boxes.csv").write_text("".join(f"{name},30,10,64,64\n" for name in names))
    config = OmegaConf.create({"data": {**OmegaConf.create(block("yaml")), "root": str(root)}})
    skipped = Skipped()
    faces = load_faces(instantiate(config.data.reader, skipped=skipped), skipped)
    assert faces.summary() == "2 people, 4 clips with 8 frames from 4 sources, 0 stills"
    assert [row.key for row in faces.rows] == names
    assert faces.rows[0].box == (30, 10, 64, 64)
    assert skipped.counts == {"name that is not PERSON-SHOT-NUMBER": 1, "image without a box": 1}


def test_the_page_explains_every_field():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE) == list(Row._fields)


def test_yaml_of_the_page_has_only_data_set_keys():
    keys = OmegaConf.load(REPOSITORY / "configs" / "data" / "folder.yaml").keys()
    assert OmegaConf.create(block("yaml")).keys() == keys
