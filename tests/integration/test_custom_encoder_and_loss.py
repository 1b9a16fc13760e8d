"""The page about encoders and losses of one's own: its code and its commands run."""

import importlib
import re
import shlex
import sys

import pytest
import torch
from commands import run
from drawn_faces import make_folder
from repository import REPOSITORY

from facereel import VideoHasher
from facereel.errors import UserError
from facereel.losses import Outputs
from facereel.models import Preprocess
from facereel.storage.trust import trust_modules

PAGE = (REPOSITORY / "docs" / "tutorials" / "custom_encoder_and_loss.md").read_text(encoding="utf-8")
LOSSES = (REPOSITORY / "docs" / "how-to" / "metric_learning.md").read_text(encoding="utf-8")
CLASSES, LOADING = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
OWN, EVALUATE, RESUME, METRIC = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE + LOSSES, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("facereel ")
]


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """The page's code as the module it names, in the working folder."""
    (tmp_path / "my_faces.py").write_text(CLASSES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_faces", raising=False)
    return tmp_path


@pytest.fixture
def quick(tmp_path):
    """Two steps a stage, on drawn faces."""
    return ["debug=tiny", "data=folder", f"data.root={make_folder(tmp_path / 'FACES', n_people=4)}", "data.size=32"]


def test_the_classes_of_the_page_train_and_load(classes, quick, capsys):
    root = next(option for option in quick if option.startswith("data.root="))
    arguments = [root if option.startswith("data.root=") else option for option in OWN[1:]]
    assert run("train", "data.size=32", *arguments) == 0
    names: dict[str, object] = {}
    exec(LOADING, names)
    model = names["model"]
    assert isinstance(model, VideoHasher)
    assert model.encoder.dim == 96  # of the width that the command gives
    codes, _ = model.encode_stills(torch.rand(2, 3, 32, 32), return_scores=True)
    assert codes.shape == (2, 48)
    with pytest.raises(UserError, match="not trusted"):
        VideoHasher.load(classes / "runs" / "mine")
    for command in (EVALUATE, RESUME):
        place = command.index("--trust")
        assert run(*command[:place], *command[place + 2 :]) == 2
        assert "add --trust my_faces" in capsys.readouterr().err
        assert run(*command) == 0
    trust_modules(None)
    config = (classes / "runs" / "mine" / "config.yaml").read_text()
    assert config.count("_target_: my_faces.MyLoss") >= 2
    assert "margin: 12.0" in config


@pytest.mark.usefixtures("classes")
def test_loss_of_the_page_works_as_described():
    module = importlib.import_module("my_faces")

    scores = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    loss = module.MyLoss(2, 3, margin=4.0)
    # Distances 1 of the same person; 2 and 1 of others, so 2 and 3 short of the margin; each twice.
    assert loss(Outputs(scores, labels, scores, labels, labels.bool())).item() == pytest.approx((1 + 2 + 3) * 2 / 9)
    none = Outputs(scores[:0], labels[:0], scores[:0], labels[:0], labels[:0].bool())
    assert loss(none).item() == 0


def test_the_command_with_pytorch_metric_learning_runs(quick, tmp_path):
    pytest.importorskip("pytorch_metric_learning", reason="needs pip install 'facereel[metric]'")
    assert run("train", *quick, *METRIC[1:], f"out={tmp_path / 'one'}") == 0
    target = "loss.stage1.loss._target_=pytorch_metric_learning.losses.ProxyAnchorLoss"
    extra = ["+loss.stage1.loss.num_classes=4", "+loss.stage1.loss.embedding_size=${head.n_bits}"]
    assert extra[1] in LOSSES
    options = ["loss=metric_learning", target, "loss.stage1.miner=null", *extra]
    assert run("train", *quick, *options, f"out={tmp_path / 'two'}") == 0


def test_table_names_existing_settings():
    settings = set(re.findall(r"`preprocess\.(\w+)`", PAGE))
    assert settings == {"mean", "std", "size", "margin", "vertical_offset"}
    assert settings <= vars(Preprocess()).keys() | {"mean", "std"}
