"""Execute the notebooks and scripts in examples/, each in a process and a folder of its own: make test-examples."""

import os
import shutil
import subprocess
import sys

import cv2
import pytest
from drawn_people import draw_image, frames, write_film
from notebooks import EXECUTE
from repository import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))

pytestmark = pytest.mark.examples


@pytest.fixture
def execute(tmp_path):
    """Run Python in a copy of examples/, and return what it printed."""
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(REPOSITORY / "src")}

    def call(*arguments):
        process = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return call


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs(execute, name):
    """Its code cells run in one namespace without IPython; figures are drawn, not shown."""
    execute("-c", EXECUTE, name)


def test_the_script_trains_in_both_ways(execute, tmp_path):
    printed = execute("train.py")
    for title in ("facereel.train: ", "plain Trainer: "):
        assert title in printed
    for folder in ("run", "plain/evaluation"):
        assert (tmp_path / "runs" / "example" / folder / "report.html").is_file()


def test_the_script_finds_the_person_of_the_photo(execute, tmp_path):
    for seed, name in enumerate(["Anna", "Bert", "Cleo"]):
        write_film(tmp_path / "films" / f"{name.lower()}.mp4", frames(name, seconds=1, seed=seed))
    cv2.imwrite(str(tmp_path / "photo.png"), draw_image("Bert", seed=8))
    title, nearest, *others = execute("search.py", "films", "photo.png").splitlines()
    assert title == "face 0"
    assert "bert.mp4" in nearest
    assert len(others) == 2
