"""What needs no data is refused before data is read."""

import subprocess
import sys

import pytest
from commands import run
from omegaconf import OmegaConf

from facereel.config.build import check_arguments, check_training
from facereel.config.compose import compose_config
from facereel.errors import UserError

pytestmark = pytest.mark.slow

READER = """
def read(**options):
    raise AssertionError("the data was read")
"""
# It must be found by its name, and reads nothing either.
ENCODER = """
from torch import nn
class Encoder(nn.Module):
    dim = 4
    def __init__(self, width: int = 4, deep: bool = False):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def own_classes(tmp_path, monkeypatch):
    (tmp_path / "unread.py").write_text(READER)
    (tmp_path / "my_encoder.py").write_text(ENCODER)
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("unread", "my_encoder"):
        sys.modules.pop(name, None)


DATA = ["data=folder", "data.root=faces", "data.reader._target_=unread.read"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["head.n_bits=0"], "head.n_bits=0: must be at least 1"),
        (["head.n_bits=null"], "head.n_bits=null: must be a whole number"),
        (["batch.n_clips=two"], "batch.n_clips=two: must be a whole number"),
        (["batch.batch_size=1"], "batch.batch_size=1: must be at least 2"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["rerank_k=few"], "rerank_k=few: must be a whole number, or null"),
        (["batch=released", "batch.n_clips=a"], "batch.n_clips=a: must be a whole number"),
        (["stages.stage2.lr=-1"], "stages.stage2.lr=-1: must be > 0"),
        (["rerank_k=0"], "rerank_k=0: must be at least 1, or null"),
        (["stages.stage2.lr=0"], "stages.stage2.lr=0: must be > 0"),
        (["stages.stage2.schedule=steps"], "stages.stage2.schedule=steps: must be one of constant, one_cycle"),
        (["stages.stage1.batches=videos"], "stages.stage1.batches=videos: must be one of people, images"),
        (["stages.stage1.epochs=-1"], "stages.stage1.epochs=-1: must be at least 0"),
        (["data.frames=all"], "data.frames=all: must be one of even, random, pieces"),
        (["protocol.val_fraction=1"], "protocol.val_fraction=1: must be at least 0 and below 1"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: must be at least 1"),
        (["trainer.gradient_clip_val=0"], "trainer.gradient_clip_val=0: must be > 0, or null"),
        (["trainer.max_gradient_ratio=1"], "trainer.max_gradient_ratio=1: must be > 1"),
        (["trainer.compile=no_such"], "trainer.compile=no_such: must be null or one of"),
        (["trainer.accelerator=tpu"], "cannot set up the run"),
        (["trainer.precision=3"], "cannot set up the run"),
        (["encoder=mobilefacenet", "encoder.weights=absent.pt"], "absent.pt: there is no such file or folder"),
        (["init_from=absent"], "absent: there is no such file or folder"),
        (["data.stills_root=absent"], "absent: there is no such file or folder"),
        (["data.detector=absent.onnx"], "absent.onnx: there is no such file or folder"),
        (["loss.stage2.margin=-1"], "loss margin=-1"),
        (["loss.stage2.pairs=some"], "loss pairs=some: must be one of all, cross_modal"),
        (["loss.stage1.margin=wide"], "loss.stage1.margin=wide: must be a number"),
        (["loss.stage1.index_order=7"], "loss.stage1.index_order=7: must be true or false"),
        (["loss=csq", "loss.stage1.quantization_weight=-1"], "quantization_weight=-1"),
        (["optimizer._target_=torch.optim.Adam"], "'momentum'; remove the option that it does not accept"),
        (["optimizer.weight_decay=-1"], "optimizer: Invalid weight_decay"),
        (["pooling.eps=0"], "cannot build pooling from facereel.models.LogCovariancePooling: eps=0: must be > 0"),
        (["pooling.center=word"], "pooling.center=word: must be true or false"),
        (["encoder=own", "encoder._target_=my_encoder.Encoder", "+encoder.width=wide"], "encoder.width=wide"),
        (["encoder=own", "encoder._target_=my_encoder.Absent"], "my_encoder.Absent"),
        (["head.dropout=2"], "cannot build head"),
        (["preprocess.std=[0,0,0]"], "std=[0, 0, 0]: each must be three numbers"),
        (["data.size=8"], "cannot set up the run"),
        (["augment=sft", "augment.features.momentum=2"], "momentum=2"),
        (["augment.images.drop_frames=2"], "augment.images.drop_frames=2: must be in 0..1"),
        (["augment.images.geometric.flip.p=2"], "augment.images.geometric.flip: `p` should be"),
        (["protocol=saved"], "protocol=saved needs protocol.file=FILE"),
        (["protocol=saved", "protocol.file=absent.json"], "absent.json: there is no such file or folder"),
    ],
)
def test_an_invalid_training_is_refused_before_data_is_read(overrides, message, tmp_path, capsys):
    assert run("train", *DATA, *overrides, "out=run") == 2
    # It would stand in the way of the next try.
    assert not (tmp_path / "run" / "config.yaml").exists()
    error = capsys.readouterr().err
    assert message in error
    assert "the data was read" not in error
    assert error.count("\n") == 1


def test_a_valid_configuration_reaches_the_reader(capsys):
    run("train", *DATA, "encoder.width=0.125", "out=run")
    assert "the data was read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rerank_k=few"], "rerank_k=few: must be a whole number, or null"),
        (["data.max_frames=0"], "data.max_frames=0: must be at least 1"),
        (["protocol.test_fraction=1"], "protocol.test_fraction=1: must be at least 0 and below 1"),
        (["protocol=leave_one_out", "protocol.leave_out=person"], "protocol.leave_out=person: must be source or item"),
        (["protocol=youtube_faces_pairs", "protocol.pairs=absent"], "absent: there is no such file or folder"),
        (["device=word"], "device=word: must be auto, cpu"),
        (["--quick"], "unknown option --quick"),
    ],
)
def test_an_invalid_evaluation_is_refused_before_data_is_read(overrides, message, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert run("evaluate", "checkpoint=model", *DATA, *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "the data was read" not in error
    assert error.count("\n") == 1


def test_unused_paths_may_be_missing(tmp_path):
    """Crops may have been prepared on another machine, and a run has its split."""
    saved = ["protocol=saved", "protocol.file=absent.json"]
    prepared = ["data.manifest=faces", "data.detector=absent.onnx", "data.root=absent"]
    small = ["encoder.width=0.125", "stages.stage1=null", "stages.stage2=null"]
    check_training(compose_config("train", ["trainer=cpu", *saved, *prepared, *small]), own_split=True)


def plain(*arguments):
    return OmegaConf.to_container(compose_config(*arguments))


def test_argument_types_come_from_the_class():
    transforms = "augment.images.photometric"
    check_arguments(plain("train", [f"{transforms}.light.brightness=[0.1,0.2]", "loss=metric_learning"]))
    with pytest.raises(UserError, match=r"augment\.images\.photometric\.blur\.p=often: must be a number"):
        check_arguments(plain("train", [f"{transforms}.blur.p=often"]))


def test_search_needs_neither_lightning_nor_hydra():
    code = (
        "import sys\n"
        "for name in ('pytorch_lightning', 'hydra', 'omegaconf'): sys.modules[name] = None\n"
        "import facereel.retrieval.face_search, facereel.retrieval.track_index"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
