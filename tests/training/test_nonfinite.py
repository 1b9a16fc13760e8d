"""A gradient that is not finite never reaches the weights: the run stops, or the step is left out and counted."""

import pytest
import torch
from commands import run
from drawn_faces import make_folder

from facereel import VideoHasher
from facereel.tables.figures import nonfinite_steps

QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "debug=tiny", "trainer=cpu"),
    *("batch.n_people=3", "stages.pretrain=null", "stages.stage2=null", "augment=none", "stages.stage1.max_steps=3"),
]


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """Clips whose frames are all one picture: two singular values are the same, 0."""
    root = tmp_path_factory.mktemp("faces")
    make_folder(root, n_people=4)
    for clip in sorted((root / "clips").glob("*/*")):
        frames = sorted(clip.iterdir())
        for frame in frames[1:]:
            frame.write_bytes(frames[0].read_bytes())
    return ["data=folder", f"data.root={root}"]


SUPPLEMENT = ["pooling.method=supplement", "batch.n_frames=4"]


def test_by_default_the_run_stops(static, tmp_path, capsys):
    assert run("train", *static, *QUICK, *SUPPLEMENT, f"out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "the gradient is not finite in epoch 1, step 1" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_steps_are_left_out_and_counted(static, tmp_path):
    """All three are, so the weights are those of the start."""
    weights = []
    for name, changes in (("skip", SUPPLEMENT), ("start", ["stages.stage1=null"])):
        out = tmp_path / name
        assert run("train", *static, *QUICK, "trainer.nonfinite=skip", *changes, f"out={out}") == 0
        weights.append(VideoHasher.load(out).state_dict())
    assert nonfinite_steps(tmp_path / "skip") == 3
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_exact_forms_leave_out_none(static, tmp_path):
    for changes in ([], [*SUPPLEMENT, "pooling.nonfinite=zero"]):
        out = tmp_path / str(len(changes))
        assert run("train", *static, *QUICK, "trainer.nonfinite=skip", *changes, f"out={out}") == 0
        assert nonfinite_steps(out) == 0


def test_another_word_is_refused(static, tmp_path, capsys):
    assert run("train", *static, *QUICK, "trainer.nonfinite=ignore", f"out={tmp_path / 'run'}") == 2
    assert "trainer.nonfinite=ignore: must be one of stop, skip" in capsys.readouterr().err
