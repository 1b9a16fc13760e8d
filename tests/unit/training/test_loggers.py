"""A logger beside the CSV that fails stops nothing."""

import csv
import json
import os

import pytest
from commands import run
from drawn_faces import make_folder
from pytorch_lightning.loggers import CSVLogger

pytestmark = pytest.mark.slow

wandb = pytest.importorskip("wandb")

QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "debug=tiny", "trainer=cpu"),
    *("stages.pretrain=null", "stages.stage2=null", "augment=none", "logger=wandb"),
]


@pytest.fixture
def train(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "online")  # so that it is put back: W&B sets it where it is to stay offline
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("HOME", str(tmp_path))
    make_folder(tmp_path / "faces", n_people=4)
    out = tmp_path / "run"

    def call(*options):
        assert run("train", "data=folder", f"data.root={tmp_path / 'faces'}", *QUICK, f"out={out}", *options) == 0
        return out

    yield call
    if wandb.run is not None:
        wandb.finish()


def assert_complete(out):
    assert json.loads((out / "metrics.json").read_text())["tasks"]
    with (out / "stage1" / "metrics.csv").open() as file:
        losses = [(row["step"], float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    assert [step for step, _ in losses] == ["1"]


def test_unreachable_server_switches_to_offline(train, monkeypatch, capsys):
    """Nobody listens there."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    out = train("logger.wandb.offline=false")
    said = capsys.readouterr().out
    assert said.count("note: WandbLogger cannot start online (") == 1
    assert "the run is logged offline; upload it with wandb sync" in said
    assert_complete(out)
    assert list(out.glob("wandb/offline-run-*/*.wandb"))


class Failing(CSVLogger):
    """Cannot begin, or fails in the first step, as where its disk is full."""

    where = "begin"

    @property
    def experiment(self):
        if self.where == "begin":
            raise OSError(28, "No space left on device")
        return super().experiment

    def log_metrics(self, metrics, step=None):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("where", "what"), [("begin", "cannot start"), ("step", "failed")])
def test_logger_with_a_full_disk_is_dropped(train, monkeypatch, capsys, tmp_path, where, what):
    monkeypatch.setattr(Failing, "where", where)
    out = train("~logger.wandb", f"+logger.own={{_target_: {__name__}.Failing, save_dir: {tmp_path / 'logs'}}}")
    said = capsys.readouterr().out
    note = f"note: Failing {what} ([Errno 28] No space left on device): the run continues without it"
    assert said.count(note) == 1
    assert_complete(out)
