"""A gradient that is not finite never reaches the weights: the run stops, or the step is left out and counted."""

import json

import pytest
import pytorch_lightning as pl
import torch
from commands import run
from drawn_faces import make_folder

from facereel import VideoHasher
from facereel.tables.figures import nonfinite_steps
from facereel.training.module import HashingModule

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
    assert error.startswith("facereel: stage1: the gradient is not finite in epoch 1, step 1")
    batch = json.loads((tmp_path / "run" / "stage1" / "nonfinite_batch.json").read_text())
    assert (batch["epoch"], batch["step"], len(batch["clips"]), len(batch["stills"])) == (1, 1, 3, 3)
    assert all((tmp_path / "run" / "split.json").read_text().count(key) for key in batch["clips"] + batch["stills"])
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


def test_a_step_that_is_left_out_changes_no_statistics(static, tmp_path, monkeypatch):
    """Pictures that make every activation infinite: batch norms would keep a NaN for ever."""
    real = HashingModule._features
    monkeypatch.setattr(
        HashingModule, "_features", lambda self, x: real(self, x * torch.inf if self.training and self.spoiled else x)
    )
    # The second of two steps.
    monkeypatch.setattr(HashingModule, "spoiled", property(lambda self: self.global_step == 1), raising=False)
    for n in (1, 2):
        steps = [f"stages.pretrain.max_steps={n}", "stages.pretrain.schedule=constant", "trainer.nonfinite=skip"]
        quick = [option for option in QUICK if not option.startswith("stages.")]
        stages = ["stages.stage1=null", "stages.stage2=null", *steps]
        assert run("train", *static, *quick, *stages, f"out={tmp_path / str(n)}") == 0
        assert torch.load(tmp_path / str(n) / "pretrain" / "last.ckpt")["state_dict"]["nonfinite_steps"] == n - 1
    one, two = (VideoHasher.load(tmp_path / str(n) / "pretrain").state_dict() for n in (1, 2))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_a_loss_that_is_nan_is_no_better_than_such_a_gradient(static, tmp_path, monkeypatch, capsys, how):
    real = HashingModule.training_step
    monkeypatch.setattr(HashingModule, "training_step", lambda *arguments: real(*arguments) + torch.nan)
    code = run("train", *static, *QUICK, f"trainer.nonfinite={how}", f"out={tmp_path / 'run'}")
    assert code == (2 if how == "stop" else 0)
    assert ("stage1: the loss is not finite" in capsys.readouterr().err) == (how == "stop")
    assert how == "stop" or nonfinite_steps(tmp_path / "run") == 3


def test_with_a_scaler_of_gradients_the_loss_alone_is_looked_at(static, tmp_path, monkeypatch):
    """16-mixed needs a GPU; here Lightning only says that it is on."""
    monkeypatch.setattr(pl.Trainer, "precision", "16-mixed")
    assert run("train", *static, *QUICK, f"out={tmp_path / 'run'}") == 0


def test_weights_that_overflow_are_in_no_checkpoint(static, tmp_path, monkeypatch, capsys):
    """In the only step, whose own loss and gradient are finite."""
    real = HashingModule.training_step
    monkeypatch.setattr(HashingModule, "training_step", lambda *arguments: real(*arguments) * 1e6)
    rates = ["stages.stage1.lr=1e36", "stages.stage1.head_lr_factor=1", "stages.stage1.schedule=constant"]
    assert run("train", *static, *QUICK, *rates, "stages.stage1.max_steps=1", f"out={tmp_path / 'run'}") == 2
    assert "stage1: hasher." in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_finite_weights_whose_scores_are_not_end_in_a_line(static, tmp_path, capsys):
    """Features of 1e30 overflow in the matrix of their products."""
    out = tmp_path / "run"
    assert run("train", *static, *QUICK, "stages.stage1=null", "batch.n_frames=4", f"out={out}") == 0
    model = VideoHasher.load(out)
    with torch.no_grad():
        for layer in model.encoder.layers:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.fill_(1e12)
    model.save(out / "model")
    capsys.readouterr()
    assert run("evaluate", f"checkpoint={out}") == 2
    error = capsys.readouterr().err
    assert error.startswith("facereel: the model's scores of ")
    assert error.endswith(" first: its weights are too large; train it with a lower learning rate\n")
    assert error.count("\n") == 1


def test_a_validation_whose_scores_are_not_finite_ends_in_a_line(static, tmp_path, monkeypatch, capsys):
    real = VideoHasher.hash_clips
    monkeypatch.setattr(VideoHasher, "hash_clips", lambda *arguments: real(*arguments) * torch.nan)
    options = ["protocol.val_fraction=0.3", f"out={tmp_path / 'run'}"]
    assert run("train", *static, *[option for option in QUICK if not option.startswith("protocol")], *options) == 2
    assert "items are not finite" in capsys.readouterr().err
