"""A run that was killed and called again comes to the same end as one that was not: bit for bit, on the CPU."""

import json
import shutil
import signal

import pytest
import torch
from commands import run
from drawn_faces import make_folder

from facereel import VideoHasher
from facereel.evaluation.report import read_curves
from facereel.storage.files import atomic_write
from facereel.training import stage as training
from facereel.training.hashing_module import HashingModule

EPOCHS = 2
QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "protocol.val_fraction=0.3"),
    *(
        "trainer=cpu",
        "batch.identities_per_batch=3",
        "batch.n_clips=1",
        "batch.n_stills=1",
        "batch.n_frames=2",
        "batch.batch_size=8",
    ),
    *(f"stages.{stage}.epochs={EPOCHS}" for stage in ("pretrain", "stage1", "stage2")),
]
# Augmented images, class means and a warm-up of the transform, dropout; or features in place of images; or images that
# are augmented in the step.
KINDS = {
    "end to end": ["augment=sft", "augment.features.warm_up=2", "augment.features.ramp_up=4"],
    "frozen": [
        "augment=none",
        "stages.stage1.freeze_encoder=true",
        "stages.stage2.freeze_encoder=true",
        "pooling=mean",
    ],
    "on the device": ["augment=strong", "augment.runs_on=device", "pooling=mean"],
}


class Killed(Exception):
    """What no code of ours catches."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    make_folder(root, n_people=4)
    return ["data=folder", f"data.root={root}"]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    folders = {}
    for kind, options in KINDS.items():
        folders[kind] = tmp_path_factory.mktemp("unbroken") / "run"
        assert run("train", *data, *QUICK, *options, f"out={folders[kind]}") == 0
    return folders


def assert_equal(a, b):
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()
    ours, theirs = (VideoHasher.load(folder).state_dict() for folder in (a, b))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    for last in a.glob("*/last.ckpt"):
        guards = [torch.load(folder / last.relative_to(a))["callbacks"]["GradientGuard"] for folder in (a, b)]
        assert guards[0] == guards[1]
        assert guards[0]["recent"]


@pytest.mark.parametrize("kind", KINDS)
def test_run_killed_in_every_stage_gives_the_same_result(kind, data, unbroken, tmp_path, monkeypatch):
    """In the first epoch, in a later one, after an epoch's last step, and between a stage's model and its mark."""
    moments = {("stage1", 1, "end"), ("stage2", 1, "start")}
    if kind == "end to end":  # the pretraining of both kinds is the same
        moments |= {("pretrain", 0, "start"), ("pretrain", 1, "start")}
    n_moments = len(moments)
    out = tmp_path / "run"
    stage_now = []
    train_stage = training.train_stage

    def noting(cfg, name, *others):
        stage_now.append(name)
        train_stage(cfg, name, *others)

    def kill_at(moment):
        if (*moment,) in moments:
            moments.remove(moment)
            raise Killed(moment)

    start, step = HashingModule.on_train_epoch_start, HashingModule.training_step

    def on_start(self):
        kill_at((stage_now[-1], self.current_epoch, "start"))
        start(self)

    def on_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if batch_idx == self.trainer.num_training_batches - 1:
            kill_at((stage_now[-1], self.current_epoch, "end"))
        return loss

    def no_mark(path):
        if path.name == training.DONE_FILE and stage_now[-1] == "stage1" and not marks:
            marks.append(path)
            raise Killed(path)
        return atomic_write(path)

    marks = []
    monkeypatch.setattr("facereel.training.pipeline.train_stage", noting)
    monkeypatch.setattr(training, "atomic_write", no_mark)
    monkeypatch.setattr(HashingModule, "on_train_epoch_start", on_start)
    monkeypatch.setattr(HashingModule, "training_step", on_step)
    kills = 0
    while True:
        try:
            assert run("train", *data, *QUICK, *KINDS[kind], f"out={out}") == 0
            break
        except Killed:
            kills += 1
    assert (kills, moments) == (n_moments + 1, set())
    assert_equal(out, unbroken[kind])
    # What was trained again stands in the curves once.
    curves, whole = read_curves(out), read_curves(unbroken[kind])
    assert curves == whole
    assert set(whole) == {"pretrain", "stage1", "stage2"}


def terminate_at(monkeypatch, moments):
    """Send SIGTERM within steps, by stage, epoch and step, and within a validation, where the step is "val"."""
    stage_now = []
    train_stage = training.train_stage
    step, validation = HashingModule.training_step, HashingModule.on_validation_epoch_start

    def noting(cfg, name, *others):
        stage_now.append(name)
        train_stage(cfg, name, *others)

    def at(module, which):
        moment = (stage_now[-1], module.current_epoch, which)
        if moment in moments:
            moments.remove(moment)
            signal.raise_signal(signal.SIGTERM)

    def on_step(self, batch, batch_idx):
        at(self, batch_idx)
        return step(self, batch, batch_idx)

    def on_validation(self):
        at(self, "val")
        validation(self)

    monkeypatch.setattr("facereel.training.pipeline.train_stage", noting)
    monkeypatch.setattr(HashingModule, "training_step", on_step)
    monkeypatch.setattr(HashingModule, "on_validation_epoch_start", on_validation)


@pytest.mark.parametrize("kind", KINDS)
def test_terminated_run_saves_after_the_step_and_gives_the_same_result(
    kind, data, unbroken, tmp_path, monkeypatch, capsys
):
    """In a first step, a later one, an epoch's last, a validation, and a stage's last."""
    saved = {
        ("pretrain", 0, 0): "pretrain is saved after step 1 of epoch 1",
        ("pretrain", 1, 1): "pretrain is done",
        ("stage1", 0, 0): "stage1 is saved after step 1 of epoch 1",
        ("stage1", 1, "val"): "stage1 is done",
        ("stage2", 0, "val"): "stage2 is saved after epoch 1",
        ("stage2", 1, 0): "stage2 is saved after step 1 of epoch 2",
    }
    in_this = [0, 1, 3, 5] if kind == "end to end" else [2, 4]
    moments = [list(saved)[i] for i in in_this]
    expected = [saved[moment] for moment in moments]
    terminate_at(monkeypatch, moments)
    out = tmp_path / "run"
    said = []
    before = signal.getsignal(signal.SIGTERM)
    while (code := run("train", *data, *QUICK, *KINDS[kind], f"out={out}")) == 143:
        said += capsys.readouterr().err.splitlines()
    assert (code, moments) == (0, [])
    assert signal.getsignal(signal.SIGTERM) == before
    continues = f": continue with facereel train resume={out}"
    assert [line for line in said if not (line.startswith("facereel: ended by ") and line.endswith(continues))] == []
    how = [line.removeprefix("facereel: ended by SIGTERM; ").removesuffix(continues) for line in said]
    assert how == expected
    assert_equal(out, unbroken[kind])
    assert read_curves(out) == read_curves(unbroken[kind])


def test_batches_from_workers_continue_at_the_same_position(data, tmp_path, monkeypatch):
    """Their random images too; one process, so that it ends as soon as it began."""
    only = ["trainer.num_workers=1", "stages.stage1=null", "stages.stage2=null", "stages.pretrain.epochs=1"]
    moments = [("pretrain", 0, 0)]
    assert run("train", *data, *QUICK, *only, f"out={tmp_path / 'unbroken'}") == 0
    terminate_at(monkeypatch, moments)
    assert run("train", *data, *QUICK, *only, f"out={tmp_path / 'run'}") == 143
    assert run("train", f"resume={tmp_path / 'run'}") == 0
    assert_equal(tmp_path / "run", tmp_path / "unbroken")


def test_run_of_a_number_of_steps_continues_after_an_epoch(data, tmp_path, monkeypatch):
    """SIGTERM in the last step of the first epoch; the third epoch is ended by the number of steps."""
    only = ["pooling=mean", "stages.pretrain=null", "stages.stage2=null", "stages.stage1.max_steps=5"]
    assert run("train", *data, *QUICK, *only, f"out={tmp_path / 'unbroken'}") == 0
    saved = torch.load(tmp_path / "unbroken" / "stage1" / "last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["epoch"]) == (5, 2)
    moments = [("stage1", 0, 1)]
    terminate_at(monkeypatch, moments)
    assert run("train", *data, *QUICK, *only, f"out={tmp_path / 'run'}") == 143
    assert not moments
    assert run("train", f"resume={tmp_path / 'run'}") == 0
    assert_equal(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("begun", "now"),
    [
        (("one_cycle", 1e-3, 2, 0), ("one_cycle", 1e-4, 3, 0)),
        (("one_cycle", 1e-3, 2, 0), ("constant", 1e-3, 3, 0.1)),
        (("constant", 1e-3, 2, 0), ("one_cycle", 1e-3, 3, 0)),
    ],
)
def test_resumed_stage_uses_the_new_options_and_schedule(begun, now, data, tmp_path, monkeypatch):
    """Those of a run that had them from the start, after the steps that were done."""
    used = []

    def noting(self, optimizer):
        used.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])

    def train(options, *others):
        used.clear()
        names = [*(f"stages.stage1.{name}" for name in ("schedule", "lr", "epochs")), "optimizer.weight_decay"]
        given = [f"{name}={value}" for name, value in zip(names, options, strict=True)]
        assert run("train", *given, *others) == 0
        return list(used)

    monkeypatch.setattr(HashingModule, "on_before_optimizer_step", noting)
    only = [option for option in QUICK if not option.startswith("stages.")]
    only = [*data, *only, "stages.pretrain=null", "stages.stage2=null", "pooling=mean"]
    expected = train(now, *only, f"out={tmp_path / 'new'}")
    n_done = len(train(begun, *only, f"out={tmp_path / 'run'}"))
    (tmp_path / "run" / "stage1" / "done.json").unlink()
    assert 0 < n_done < len(expected)
    assert train(now, f"resume={tmp_path / 'run'}") == expected[n_done:]


def test_stage_is_not_resumed_with_another_optimizer(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", *data, *QUICK, "stages.pretrain=null", "stages.stage2=null", f"out={out}") == 0
    (out / "stage1" / "done.json").unlink()
    capsys.readouterr()
    assert run("train", f"resume={out}", "optimizer._target_=torch.optim.Adam", "~optimizer.momentum") == 2
    assert "stage1/last.ckpt: it was trained with SGD, not Adam. Delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "n_people", "changes", "reason"),
    [
        ("pretrain", 5, [], "it was trained with 4 people, but the data now has 5"),
        ("stage1", 4, ["loss=orthohash"], "its loss.centers is absent, not 4 x 8; the model or the loss differs"),
    ],
)
def test_reasons_why_a_stage_cannot_be_resumed(stage, n_people, changes, reason, tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "faces", tmp_path / "run"
    make_folder(root, n_people=4)
    terminate_at(monkeypatch, [(stage, 0, 0)])
    others = [f"stages.{name}=null" for name in ("pretrain", "stage1", "stage2") if name != stage]
    assert run("train", "data=folder", f"data.root={root}", *QUICK, *others, f"out={out}") == 143
    make_folder(root, n_people=n_people)
    capsys.readouterr()
    assert run("train", f"resume={out}", *changes) == 2
    last = out / stage / "last.ckpt"
    advice = f"Delete it to train {stage} again, or restore the data and options it was trained with."
    assert capsys.readouterr().err == f"facereel: Cannot resume from {last}: {reason}. {advice}\n"
    last.unlink()
    assert run("train", f"resume={out}", *changes) == 0


def test_checkpoint_of_another_model_is_described(data, tmp_path, monkeypatch, capsys):
    """Copied from one run to another."""
    for name, bits in (("8", 8), ("12", 12)):
        terminate_at(monkeypatch, [("pretrain", 0, 0)])
        options = [*data, *QUICK, f"head.n_bits={bits}", f"out={tmp_path / name}"]
        assert run("train", *options) == 143
        monkeypatch.undo()
    shutil.copy(tmp_path / "8" / "pretrain" / "last.ckpt", tmp_path / "12" / "pretrain")
    capsys.readouterr()
    assert run("train", f"resume={tmp_path / '12'}") == 2
    assert "last.ckpt: it was trained with head.n_bits=8, not 12. Delete it" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_another_model(data, tmp_path, monkeypatch, capsys):
    terminate_at(monkeypatch, [("pretrain", 0, 0)])
    assert run("train", *data, *QUICK, f"out={tmp_path}") == 143
    for change in ("head.n_bits=16", "encoder.width=0.25", "head=separate"):
        capsys.readouterr()
        assert run("train", f"resume={tmp_path}", change) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"facereel: Cannot resume {tmp_path}: it was trained with {change.split('=')[0]}")
        assert error.count("\n") == 1
        assert ", not " in error


def test_damaged_checkpoint_is_named_in_one_line(data, tmp_path, monkeypatch, capsys):
    terminate_at(monkeypatch, [("pretrain", 0, 0)])
    only = ["stages.stage1=null", "stages.stage2=null"]
    assert run("train", *data, *QUICK, *only, f"out={tmp_path / 'run'}") == 143
    last = tmp_path / "run" / "pretrain" / "last.ckpt"
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PK" + whole[2:9]):
        last.write_bytes(damaged)
        capsys.readouterr()
        assert run("train", f"resume={tmp_path / 'run'}") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"facereel: Cannot resume from {last}: ")
        assert error.endswith(". Delete it to train pretrain again.\n")


def test_same_seed_gives_the_same_result_and_another_differs(data, unbroken, tmp_path):
    options = KINDS["frozen"]
    assert run("train", *data, *QUICK, *options, f"out={tmp_path / 'again'}") == 0
    assert_equal(tmp_path / "again", unbroken["frozen"])
    split = unbroken["frozen"] / "split.json"
    saved = ["protocol=saved", f"protocol.file={split}", "seed=5"]
    quick = [option for option in QUICK if not option.startswith("protocol")]
    assert run("train", *data, *quick, *options, *saved, f"out={tmp_path / 'other'}") == 0
    own, other = (VideoHasher.load(folder).state_dict() for folder in (unbroken["frozen"], tmp_path / "other"))
    assert any(not torch.equal(own[name], other[name]) for name in own)
    assert json.loads((tmp_path / "other" / "metrics.json").read_text())["seed"] == 5
