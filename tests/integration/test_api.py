"""Training, evaluation, indexing and search from Python, as a script or a notebook does."""

import asyncio
import json
import os
import random
import sys

import cv2
import numpy as np
import pytest
import torch
from commands import flat, run
from drawn_faces import make_folder
from drawn_people import draw_image
from films import make_film

import facereel
from facereel.errors import UserError

SMALL = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "trainer=cpu", "augment=none"),
    *("batch.identities_per_batch=3", "batch.n_clips=1", "batch.n_stills=1", "batch.n_frames=2", "batch.batch_size=8"),
    *("stages.pretrain.epochs=1", "stages.stage1.epochs=1", "stages.stage2=null", "protocol.val_fraction=0.0"),
]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=4)
    return ["data=folder", f"data.root={root}", *SMALL]


@pytest.fixture(scope="module")
def trained(overrides, tmp_path_factory):
    return facereel.train(*overrides, out=tmp_path_factory.mktemp("runs") / "a")


def state():
    return (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        dict(os.environ),
        list(sys.argv),
    )


def test_a_run_is_the_one_that_the_command_trains(trained, overrides, tmp_path):
    assert run("train", *overrides, f"out={tmp_path / 'command'}") == 0
    command = json.loads((tmp_path / "command" / "metrics.json").read_text())
    assert flat(trained.metrics["tasks"]) == pytest.approx(flat(command["tasks"]), nan_ok=True)
    assert trained.metrics == json.loads((trained.folder / "metrics.json").read_text())
    for name in ("overrides.json", "split.json"):
        assert (trained.folder / name).read_text() == (tmp_path / "command" / name).read_text()
    weights = facereel.VideoHasher.load(tmp_path / "command").state_dict()
    assert weights.keys() == trained.model.state_dict().keys()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert "<html" in trained.report.read_text()


def test_the_process_stays_as_it_was(trained, overrides, tmp_path, capfd):
    """Also in the event loop of a notebook; the command prints again afterwards."""
    before = state()

    async def cell():
        return facereel.train(*overrides, "seed=1", out=tmp_path / "b")

    second = asyncio.run(cell())
    result = facereel.evaluate(second, "protocol=leave_one_out")
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert second.metrics["seed"] == 1
    assert result.folder.parent.parent == second.folder
    assert run("evaluate", f"checkpoint={trained.folder}", f"out={tmp_path / 'again'}") == 0
    assert "report:" in capfd.readouterr().out


def test_verbose_prints_what_the_command_prints(overrides, tmp_path, capfd):
    facereel.train(*overrides, "stages.stage1=null", out=tmp_path / "c", verbose=True)
    assert "trained in" in capfd.readouterr().out


@pytest.mark.parametrize("of", [lambda run: run, lambda run: run.folder, lambda run: str(run.folder / "model")])
def test_what_is_evaluated_may_be_a_run_or_a_path(trained, tmp_path, of):
    result = facereel.evaluate(of(trained), out=tmp_path / "out")
    assert result.folder == tmp_path / "out"
    assert result.report.exists()
    assert flat(result.metrics["tasks"]) == pytest.approx(flat(trained.metrics["tasks"]), nan_ok=True)


def test_a_mistake_is_an_exception(overrides, tmp_path):
    before = state()
    with pytest.raises(UserError, match=r"head\.bits"):
        facereel.train(*overrides, "head.bits=48", out=tmp_path / "d")
    assert not (tmp_path / "d").exists()
    with pytest.raises(UserError, match="no_run"):
        facereel.evaluate(tmp_path / "no_run")
    assert state() == before


def test_videos_are_indexed_and_searched(tmp_path, capfd):
    make_film(tmp_path / "films" / "anna.mp4", "Anna", seconds=1)
    before = state()
    index = facereel.index_videos(tmp_path / "films", out=tmp_path / "index")
    make_film(tmp_path / "films" / "bert.mp4", "Bert", seconds=1)
    index = facereel.index_videos(tmp_path / "films", out=tmp_path / "index")
    assert state() == before
    assert len(index) == 2
    assert capfd.readouterr().out == ""
    cv2.imwrite(str(tmp_path / "photo.png"), draw_image("Bert", seed=8))
    search = facereel.FaceSearch(tmp_path / "index")
    nearest, other = search.search(search.faces(tmp_path / "photo.png"), top=2)
    assert nearest.video.endswith("bert.mp4")
    assert nearest.distance < other.distance
    assert (nearest.start_s, nearest.person) == (0.0, None)
    assert nearest.end_s > 0.5
    (face,) = search.faces(cv2.imread(str(tmp_path / "photo.png")))
    twice, once = (search.search(query, top=2) for query in ([face, face], face))
    assert [result.video for result in twice] == [result.video for result in once]
    assert [result.distance for result in twice] == pytest.approx([result.distance for result in once], abs=1e-6)
    anna = search.tracks(tmp_path / "films" / "anna.mp4")
    assert search.search([*anna, *anna, face], top=1)[0].video.endswith("anna.mp4")
    with pytest.raises(ValueError, match="there is no face to search for"):
        search.search([])
    with pytest.raises(UserError, match=r"anna\.mp4: a video, not an image"):
        search.faces(tmp_path / "films" / "anna.mp4")
