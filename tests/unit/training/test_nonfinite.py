"""A gradient that is not finite or too large never reaches the weights: the run stops, or skips and counts the step."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
from commands import run
from drawn_faces import make_folder

from facereel import VideoHasher
from facereel.tables.results import nonfinite_steps
from facereel.training.gradient_guard import GradientGuard
from facereel.training.hashing_module import HashingModule

pytestmark = pytest.mark.slow

QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "debug=tiny", "trainer=cpu"),
    *(
        "batch.identities_per_batch=3",
        "stages.pretrain=null",
        "stages.stage2=null",
        "augment=none",
        "stages.stage1.max_steps=3",
    ),
]
TWENTY = ["stages.stage1.max_steps=20", "batch.identities_per_batch=2", "batch.n_frames=2"]


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """Clips whose frames are all one image: two singular values are the same, 0."""
    root = tmp_path_factory.mktemp("faces")
    make_folder(root, n_people=4)
    for clip in sorted((root / "clips").glob("*/*")):
        frames = sorted(clip.iterdir())
        for frame in frames[1:]:
            frame.write_bytes(frames[0].read_bytes())
    return ["data=folder", f"data.root={root}"]


@pytest.fixture
def inject(monkeypatch):
    """Put a number into the gradient of these steps, counted from 1, or of all."""

    def into(value, *steps):
        real = GradientGuard.on_after_backward

        def on_after_backward(self, trainer, module):
            if not steps or trainer.global_step + 1 in steps:
                gradient = next(p.grad for p in module.parameters() if p.grad is not None)
                gradient[(0,) * gradient.dim()] = value
            real(self, trainer, module)

        monkeypatch.setattr(GradientGuard, "on_after_backward", on_after_backward)

    return into


def test_run_stops_by_default(static, tmp_path, inject, capsys):
    inject(math.nan)
    assert run("train", *static, *QUICK, f"out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error.startswith("facereel: stage1: the gradient is not finite in epoch 1, step 1")
    batch = json.loads((tmp_path / "run" / "stage1" / "nonfinite_batch.json").read_text())
    assert (batch["epoch"], batch["step"], len(batch["clips"]), len(batch["stills"])) == (1, 1, 3, 3)
    assert all((tmp_path / "run" / "split.json").read_text().count(key) for key in batch["clips"] + batch["stills"])
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("value", "step", "reason"),
    [
        (-math.inf, 20, "the gradient is not finite"),
        (1e33, 1, "the gradient is too large (up to 1.0e+33, whose square overflows float32)"),
        (1e33, 20, "the gradient is too large (up to 1.0e+33, whose square overflows float32)"),
        (1e12, 20, "the gradient is too large (up to 1.0e+12, the limit is "),
    ],
)
def test_finite_but_too_large_gradient_stops_the_run(static, tmp_path, inject, capsys, value, step, reason):
    """Clipping does not hide it, and does not make it good: what is left has the direction of one weight."""
    inject(value, step)
    assert run("train", *static, *QUICK, *TWENTY, "trainer.gradient_clip_val=1", f"out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"facereel: stage1: {reason}")
    assert f"step {step} (batch listed in " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", [math.nan, 1e33])
def test_steps_are_skipped_and_counted(static, tmp_path, inject, value):
    """All three are, so the weights are those of the start."""
    inject(value)
    weights = []
    for name, changes in (("skip", []), ("start", ["stages.stage1=null"])):
        out = tmp_path / name
        assert run("train", *static, *QUICK, "trainer.nonfinite=skip", *changes, f"out={out}") == 0
        weights.append(VideoHasher.load(out).state_dict())
    assert nonfinite_steps(tmp_path / "skip") == 3
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_large_gradient_is_skipped_like_a_nonfinite_one(static, tmp_path, inject):
    weights = []
    for value in (math.nan, 1e33, 1e12):
        out = tmp_path / str(value)
        inject(value, 5, 20)
        assert run("train", *static, *QUICK, *TWENTY, "trainer.nonfinite=skip", f"out={out}") == 0
        assert nonfinite_steps(out) == 2
        weights.append(VideoHasher.load(out).state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
        assert torch.equal(tensor, weights[2][name]), name


def test_the_norm_of_accumulated_batches_counts_once(static, tmp_path, inject):
    """A bad batch takes those before it along, and the step is that of the one after it."""
    inject(1e33, 2)
    options = ["trainer.nonfinite=skip", "trainer.accumulate_grad_batches=2", f"out={tmp_path / 'run'}"]
    assert run("train", *static, *QUICK, *TWENTY[1:], *options) == 0
    checkpoint = torch.load(tmp_path / "run" / "stage1" / "last.ckpt")
    assert checkpoint["global_step"] == 3
    guard = checkpoint["callbacks"]["GradientGuard"]
    assert (guard["n_skipped"], len(guard["recent"])) == (2, 2)


def test_static_clips_skip_no_step(static, tmp_path):
    assert run("train", *static, *QUICK, "trainer.nonfinite=skip", f"out={tmp_path}") == 0
    assert nonfinite_steps(tmp_path) == 0


def test_unknown_action_raises(static, tmp_path, capsys):
    assert run("train", *static, *QUICK, "trainer.nonfinite=ignore", f"out={tmp_path / 'run'}") == 2
    assert "trainer.nonfinite=ignore: must be one of stop, skip" in capsys.readouterr().err


@pytest.mark.parametrize("ratio", ["1", "-1e9"])
def test_ratio_below_one_raises(static, tmp_path, capsys, ratio):
    assert run("train", *static, *QUICK, f"trainer.max_gradient_ratio={ratio}", f"out={tmp_path / 'run'}") == 2
    assert "trainer.max_gradient_ratio=" in (error := capsys.readouterr().err)
    assert error.endswith(": must be > 1\n")


def test_ratio_is_read_from_the_configuration(static, tmp_path, inject):
    inject(1e12, 20)
    options = ["trainer.max_gradient_ratio=1e20", "trainer.gradient_clip_val=1", f"out={tmp_path}"]
    assert run("train", *static, *QUICK, *TWENTY, *options) == 0


def test_skipped_step_does_not_change_statistics(static, tmp_path, monkeypatch):
    """Images that make every activation infinite: batch norms would keep a NaN for ever."""
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
        assert (
            torch.load(tmp_path / str(n) / "pretrain" / "last.ckpt")["callbacks"]["GradientGuard"]["n_skipped"] == n - 1
        )
    one, two = (VideoHasher.load(tmp_path / str(n) / "pretrain").state_dict() for n in (1, 2))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_nan_loss_is_treated_like_a_nan_gradient(static, tmp_path, monkeypatch, capsys, how):
    real = HashingModule.training_step
    monkeypatch.setattr(HashingModule, "training_step", lambda *arguments: real(*arguments) + torch.nan)
    code = run("train", *static, *QUICK, f"trainer.nonfinite={how}", f"out={tmp_path / 'run'}")
    assert code == (2 if how == "stop" else 0)
    assert ("stage1: the loss is not finite" in capsys.readouterr().err) == (how == "stop")
    assert how == "stop" or nonfinite_steps(tmp_path / "run") == 3


def test_with_a_gradient_scaler_only_the_loss_is_checked(static, tmp_path, monkeypatch):
    """16-mixed needs a GPU; here Lightning only says that it is on."""
    monkeypatch.setattr(pl.Trainer, "precision", "16-mixed")
    assert run("train", *static, *QUICK, f"out={tmp_path / 'run'}") == 0


def test_overflowing_weights_are_not_saved(static, tmp_path, monkeypatch, capsys):
    """In the only step, whose own loss and gradient are finite."""
    real = HashingModule.training_step
    monkeypatch.setattr(HashingModule, "training_step", lambda *arguments: real(*arguments) * 1e6)
    rates = ["stages.stage1.lr=1e36", "stages.stage1.head_lr_multiplier=1", "stages.stage1.schedule=constant"]
    assert run("train", *static, *QUICK, *rates, "stages.stage1.max_steps=1", f"out={tmp_path / 'run'}") == 2
    assert "stage1: hasher." in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_nonfinite_scores_of_finite_weights_give_a_one_line_error(static, tmp_path, capsys):
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
    assert error.startswith("facereel: the model's scores are not finite for ")
    assert error.endswith(": its weights are too large; train it with a lower learning rate\n")
    assert error.count("\n") == 1


def test_nonfinite_validation_scores_give_a_one_line_error(static, tmp_path, monkeypatch, capsys):
    real = VideoHasher.hash_clips
    monkeypatch.setattr(VideoHasher, "hash_clips", lambda *arguments: real(*arguments) * torch.nan)
    options = ["protocol.val_fraction=0.3", f"out={tmp_path / 'run'}"]
    assert run("train", *static, *[option for option in QUICK if not option.startswith("protocol")], *options) == 2
    assert "scores are not finite" in capsys.readouterr().err
