"""What the trainer group offers: each option does what it says, on the CPU."""

import csv

import pytest
import torch
from commands import run
from drawn_faces import make_folder

from facereel import VideoHasher
from facereel.training.hashing_module import HashingModule

pytestmark = pytest.mark.slow

# One stage of one epoch; of 7 clips of 4 people, 3 a batch: 3 batches.
QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "head.dropout=0", "data.size=32", "data.detector=null", "trainer=cpu"),
    *(
        "augment=none",
        "batch.identities_per_batch=3",
        "batch.n_clips=1",
        "batch.n_stills=1",
        "batch.n_frames=4",
        "pooling=mean",
    ),
    *("stages.pretrain=null", "stages.stage2=null", "stages.stage1.epochs=1", "optimizer.weight_decay=0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=4)
    return ["data=folder", f"data.root={root}"]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    assert run("train", *data, *QUICK, "trainer.devices=auto", f"out={out}") == 0
    return out


def weights(out):
    return VideoHasher.load(out).state_dict()


def difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def state(out):
    return torch.load(out / "stage1" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def still(data, tmp_path_factory):
    """Gradients of a run with a step a batch, and of one of two batches a step; the weights stay as they start."""
    folders, gradients = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            HashingModule,
            "on_before_optimizer_step",
            lambda self, optimizer: gradients.append(self.hasher.head.both[1].weight.grad.clone()),
        )
        for n in (1, 2):
            folders.append(tmp_path_factory.mktemp("still") / "run")
            options = ["stages.stage1.lr=1e-30", f"trainer.accumulate_grad_batches={n}"]
            assert run("train", *data, *QUICK, *options, f"out={folders[-1]}") == 0
    return folders, gradients


def test_accumulated_batches_give_one_step_with_the_mean_gradient(still):
    _, gradients = still
    one, two = gradients[:3], gradients[3:]
    assert len(two) == 2
    assert one[0].abs().max() > 1e-5
    tolerance = 1e-4 * one[0].abs().max()
    assert (two[0] - (one[0] + one[1]) / 2).abs().max() < tolerance
    # Of the last batch of an epoch, which is alone.
    assert (two[1] - one[2] / 2).abs().max() < tolerance


def test_schedules_count_steps(still):
    for folder, n_steps in zip(still[0], (3, 2), strict=True):
        saved = state(folder)
        (schedule,) = saved["lr_schedulers"]
        assert (saved["global_step"], schedule["total_steps"]) == (n_steps, n_steps)
        assert schedule["last_epoch"] in (n_steps - 1, n_steps)


def test_steps_are_counted_when_batches_are_accumulated(data, tmp_path):
    """max_steps are optimizer steps: 5 of two batches take three epochs of 3 batches."""
    options = ["stages.stage1.max_steps=5", "trainer.accumulate_grad_batches=2"]
    assert run("train", *data, *QUICK, *options, f"out={tmp_path / 'run'}") == 0
    saved = state(tmp_path / "run")
    assert (saved["global_step"], saved["epoch"]) == (5, 2)


def test_a_compiled_encoder_trains_the_same_weights(data, plain, tmp_path):
    """With the backend that needs no compiler; which one makes no difference to us."""
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert run("train", *data, *QUICK, "trainer.compile=eager", f"out={tmp_path / 'run'}") == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert difference(weights(tmp_path / "run"), weights(plain)) < 1e-4


def test_memory_layout(data, plain, tmp_path, monkeypatch):
    seen = set()
    real = HashingModule.training_step

    def noting(self, *arguments):
        layers = self.hasher.encoder.layers
        handle = layers.register_forward_pre_hook(lambda _, x: seen.add(x[0].is_contiguous()))
        seen.add(layers[3].weight.is_contiguous())
        loss = real(self, *arguments)
        handle.remove()
        return loss

    monkeypatch.setattr(HashingModule, "training_step", noting)
    assert run("train", *data, *QUICK, "trainer.channels_last=false", f"out={tmp_path / 'run'}") == 0
    assert seen == {True}
    assert difference(weights(tmp_path / "run"), weights(plain)) < 1e-4
    loaded = VideoHasher.load(tmp_path / "run").encoder.layers[3].weight
    assert loaded.is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_clipped(data, plain, still, tmp_path):
    assert run("train", *data, *QUICK, "trainer.gradient_clip_val=1e-6", f"out={tmp_path / 'run'}") == 0
    start = weights(still[0][0])
    # 3 steps, momentum, a rate of 0.1 for the head.
    assert 0 < difference(weights(tmp_path / "run"), start) < 1e-6
    assert difference(weights(plain), start) > 1e-4


def test_bf16_keeps_the_covariance_layer_in_full_precision(data, tmp_path, monkeypatch):
    seen = []
    real = HashingModule._augmented

    def noting(self, *arguments):
        pooling = self.hasher.pooling
        handle = pooling.register_forward_hook(
            lambda _, x, y: seen.append((x[0].dtype, y.dtype, torch.is_autocast_enabled("cpu")))
        )
        result = real(self, *arguments)
        handle.remove()
        return result

    monkeypatch.setattr(HashingModule, "_augmented", noting)
    half = []
    monkeypatch.setattr(
        "facereel.models.hasher._in_full", lambda features: half.append(features.dtype) or features.float()
    )
    options = ["trainer.precision=bf16-mixed", "pooling=log_covariance"]
    assert run("train", *data, *QUICK, *options, f"out={tmp_path / 'run'}") == 0
    assert set(seen) == {(torch.float32, torch.float32, False)}
    assert torch.bfloat16 in half
    with (tmp_path / "run" / "stage1" / "metrics.csv").open() as file:
        assert all(float(row["train/loss"]) > 0 for row in csv.DictReader(file) if row["train/loss"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.accumulate_grad_batches=0", "must be at least 1"),
        ("trainer.compile=gcc", "trainer.compile=gcc: must be null or one of"),
        ("trainer.devices=0", "must be a number of devices, auto, or GPUs"),
        ("trainer.devices=2.5", "must be a number of devices, auto, or GPUs"),
        ("trainer.gradient_clip_val=word", "trainer.gradient_clip_val=word: must be a number, or null"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val=0: must be > 0, or null"),
        ("trainer.devices=two", "must be a number of devices, auto, or GPUs"),
        ("trainer.devices=[0,many]", "must be a number of devices, auto, or GPUs"),
    ],
)
def test_wrong_options_give_a_one_line_error(option, message, data, tmp_path, capsys):
    assert run("train", *data, *QUICK, option, f"out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_sweep_over_runs_with_several_processes_raises(data, tmp_path, capsys):
    assert run("train", "-m", *data, *QUICK, "trainer=ddp_cpu", "seed=0,1", f"out={tmp_path / 'run'}") == 2
    assert "a sweep runs each job in one process" in capsys.readouterr().err
    assert run("train", "-m", *data, *QUICK, "trainer.devices=2,3", f"out={tmp_path / 'run'}") == 2
    assert "2 jobs failed; the first: job " in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.json"))
