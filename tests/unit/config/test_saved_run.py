"""A run, a model or a prepared folder of a stranger's runs no code, reads no file elsewhere, and fills no memory."""

import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest
import torch
from commands import run
from drawn_faces import make_folder
from omegaconf import OmegaConf

from facereel import VideoHasher
from facereel.cli.evaluate import _new_folder
from facereel.config.saved_run import read_config
from facereel.data.crop_table import ABOUT
from facereel.errors import UserError
from facereel.evaluation.split import Split
from facereel.models.hasher import CONFIG_FILE, DEFAULT_CONFIG, WEIGHTS_FILE
from facereel.storage.files import file_lock
from facereel.storage.trust import is_trusted, trust_modules
from facereel.storage.untrusted import read_json

pytestmark = pytest.mark.slow

SMALL = {
    **DEFAULT_CONFIG,
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
    "pooling": {"_target_": "facereel.models.MeanPooling"},
}
EVIL = """import os
from torch import nn
os.mkdir("executed")
class Encoder(nn.Module):
    dim = 3
    def forward(self, images):
        return images.mean(dim=(2, 3))
class Loss(nn.Module):
    def __init__(self, n_people=0, n_bits=0):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def evil(tmp_path, monkeypatch):
    """A module in reach, importing which leaves a folder."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield
    trust_modules(None)


def stranger(folder, overrides=(), config="seed: 0\ndata: {name: orl}\nprotocol: {}\n", **choices):
    folder.mkdir()
    choices = {"data": "orl", "protocol": "closed_set", **choices}
    (folder / "overrides.json").write_text(json.dumps({"overrides": list(overrides), "choices": choices}))
    (folder / "config.yaml").write_text(config)
    return folder


def refused(capsys, *arguments):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=own", "loss.stage1._target_=evil.Loss"], "add --trust evil"),
        (["loss=own", "loss.stage1._target_=os.mkdir", "+loss.stage1.path=executed"], "add --trust os"),
        (["optimizer._target_=evil.Loss"], "optimizer._target_=evil.Loss"),
        (["encoder=own", "encoder._target_=evil.Encoder"], "encoder._target_=evil.Encoder"),
        # By a class of ours, of torch's or by what their modules import.
        (["+x={_target_: facereel.storage.files.os.mkdir, path: executed}"], "facereel.storage.files.os.mkdir"),
        (["+x={_target_: torch.hub.load, repo_or_dir: x, model: y}"], "torch.hub.load"),
        (["+x={_target_: torch.load, f: x, weights_only: false}"], "torch.load"),
        (["+x={_target_: torch._C.PyTorchFileWriter, f: executed}"], "PyTorchFileWriter"),
        (["+x={_target_: facereel.__main__.main}"], "__main__"),
        (["+x={_target_: facereel.models.VideoHasher, config: {}, trust: [evil]}"], "VideoHasher"),
        (["+x=[{y: {_target_: evil.Loss}}]"], "x.0.y._target_=evil.Loss"),
        (["+x={_target_: torch.jit.ScriptModule}"], "torch.jit.ScriptModule"),
        # By what is something else when it is looked at than when it is used.
        (["+x={_target_: '${y.${now:%S}}'}", "+y={s00: evil.Loss}"], "must not compute"),
        (["+x={_target_: '${y}'}", "+y=evil.Loss"], "x._target_=${y}"),
        ([r"name=$\{oc.env\:HOME\}"], "must not compute"),
        # By where it logs to.
        (["logger=wandb", "logger.wandb.save_dir=/elsewhere"], "where to log"),
        (["logger=wandb", "+logger.wandb.settings={base_url: 'http://evil'}"], "where to log"),
        # By a file of configuration elsewhere, or Hydra's own options.
        (["data=../../evil"], "not an option of data"),
        (["experiment='/evil'"], "not an option of experiment"),
        (["--config-dir=."], "not key=value"),
        (["hydra.searchpath=[file://.]"], "an option of Hydra"),
        (["hydra/launcher=evil"], "an option of Hydra"),
        ("seed=1", "not a list"),
    ],
)
def test_resuming_an_untrusted_run_executes_no_code(tmp_path, capsys, overrides, message):
    folder = stranger(tmp_path / "run")
    (folder / "overrides.json").write_text(json.dumps({"overrides": overrides, "choices": {}}))
    assert message in refused(capsys, "train", f"resume={folder}", "debug=tiny")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "seed: 0\ndata: {reader: {_target_: evil.Loss}}\nprotocol: {}\n"}, "add --trust evil"),
        ({"config": "seed: 0\ndata: {}\nprotocol: {_target_: os.getcwd}\n"}, "protocol._target_=os.getcwd"),
        ({"data": "../../evil"}, "not an option of data"),
        ({"protocol": ["closed_set", "../x"]}, "not an option of protocol"),
        ({"config": "seed: 0\ndata: {name: '${now:%S}'}\nprotocol: {}\n"}, "is damaged: it has ${now:%S}"),
        ({"config": "seed: 0\ndata: {name: !!binary aGVsbG8=}\nprotocol: {}\n"}, "is damaged"),
        ({"config": "seed: 0\ndata: 3\nprotocol: {}\n"}, "is damaged"),
        ({"config": "seed: 0\n"}, "is damaged"),
        ({"config": "seed: x\ndata: {}\nprotocol: {}\n"}, "is damaged"),
        ({"config": "- 1\n"}, "is damaged"),
        ({"config": "a: [\n"}, "is damaged"),
    ],
)
def test_evaluating_an_untrusted_run_executes_no_code(tmp_path, capsys, options, message):
    folder = stranger(tmp_path / "run", **options)
    VideoHasher(SMALL).save(folder / "model")
    assert message in refused(capsys, "evaluate", f"checkpoint={folder}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["model", "stage1/metrics.csv"])
def test_a_run_with_links_out_of_it_is_not_resumed(tmp_path, capsys, name):
    folder = stranger(tmp_path / "run")
    (folder / "stage1").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} leads out of" in refused(capsys, "train", f"resume={folder}", "debug=tiny")


@pytest.mark.parametrize("name", ["../../../out", "/out"])
def test_an_evaluation_is_written_inside_its_run(tmp_path, name):
    """Its folder is named as the run calls its data."""
    cfg, split = OmegaConf.create({"data": {"name": name}}), Split("closed_set", 0, searches_train=True)
    with pytest.raises(UserError, match="leads out of"):
        _new_folder(tmp_path / "run", cfg, split)


def test_a_lock_file_that_is_a_link_empties_no_file(tmp_path):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "lock").symlink_to(tmp_path / "letter")
    with file_lock(tmp_path / "lock") as held:
        assert held is not None
    assert (tmp_path / "letter").read_text() == "dear"


def test_classes_of_facereel_and_torch_need_no_trust(tmp_path):
    from hydra import compose, initialize_config_dir

    from facereel.config.compose import config_dir
    from facereel.config.saved_run import check_overrides, check_targets

    given = [
        *("experiment=finetuned_itq", "loss=metric_learning", "logger=wandb", "optimizer._target_=torch.optim.Adam"),
        *("data.root='/data/a b'", "~augment.images.geometric.flip", "loss.stage1.miner=null", "data=folder"),
    ]
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        check_targets(compose("train", [*check_overrides(given, tmp_path), f"out={tmp_path}"]), tmp_path)


@pytest.fixture
def foreign(tmp_path):
    """A model of which one part is the module's."""
    model = VideoHasher({**SMALL, "encoder": {"_target_": "evil.Encoder"}}, trust=("evil",))
    model.save(tmp_path / "model")
    (tmp_path / "executed").rmdir()
    del sys.modules["evil"]
    return tmp_path / "model"


def test_every_command_that_reads_a_model_accepts_trust(foreign, tmp_path, capsys):
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(b"")
    for command in (
        ["evaluate", f"checkpoint={foreign}", "data=folder", f"data.root={tmp_path}"],
        ["index", films, "--out", tmp_path / "index", "--checkpoint", foreign],
        ["export", foreign, "--out", tmp_path / "exported", "--no-onnx"],
    ):
        assert "--trust evil" in refused(capsys, *command)
        assert not (tmp_path / "executed").exists()
        # Trusted, the class is found; what fails then has other reasons, or nothing does.
        run(*command, "--trust", "evil")
        assert "trust" not in capsys.readouterr().err
        assert (tmp_path / "executed").exists()
        (tmp_path / "executed").rmdir()
        del sys.modules["evil"]
    for name in ("search", "serve", "train"):
        assert run(name, "--help") == 0
        assert "--trust" in capsys.readouterr().out


def test_trust_is_passed_to_the_processes_of_a_distributed_run(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("facereel.parallel.launch.launch", lambda n, command: commands.append(command) or 0)
    options = ["trainer=ddp_cpu", f"data.root={tmp_path}"]
    assert run("train", "--trust", "mine", "--trust", "yours", "data=folder", *options) == 0
    assert commands[0][1:6] == ["-m", "facereel", "train", "--trust=mine", "--trust=yours"]


def test_trust_lasts_for_one_command(capsys):
    trust_modules(["mine"])
    assert is_trusted("mine.losses")
    assert not is_trusted("minefield")
    assert run("evaluate", "checkpoint=absent") == 2
    assert not is_trusted("mine.losses")


def test_a_nested_model_cannot_grant_trust(tmp_path):
    inner = {"_target_": "facereel.models.VideoHasher", "config": {**SMALL, "encoder": {"_target_": "evil.Encoder"}}}
    with pytest.raises(UserError, match="can be a part of a model"):
        VideoHasher({**SMALL, "encoder": {**inner, "trust": ["evil"]}})
    assert not (tmp_path / "executed").exists()


def test_a_model_larger_than_any_memory_is_refused():
    with pytest.raises(UserError, match="cannot build head"):
        VideoHasher({**SMALL, "head": {"_target_": "facereel.models.SharedHead", "n_bits": 2**50}})
    with pytest.raises(UserError, match="cannot build encoder"):
        VideoHasher({**SMALL, "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 1e300}})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((2**63).to_bytes(8, "little") + b"{}", "damaged"),
        ((2**40).to_bytes(8, "little") + b"{}", "damaged"),
        (b"\x00" * 4, "damaged"),
        (None, "damaged"),
    ],
)
def test_a_safetensors_header_of_absurd_size_is_refused(tmp_path, header, message):
    VideoHasher(SMALL).save(tmp_path / "model")
    if header is None:  # a tensor that is said to hold a petabyte
        about = json.dumps({"x": {"dtype": "F32", "shape": [2**48], "data_offsets": [0, 2**50]}}).encode()
        header = len(about).to_bytes(8, "little") + about
    (tmp_path / "model" / WEIGHTS_FILE).write_bytes(header)
    with pytest.raises(UserError, match=message):
        VideoHasher.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 200_000, "nested too deep"), ("9" * 10_000, "damaged"), (" " * (17 * 2**20), "bytes, more than")],
)
def test_a_json_bomb_is_refused(tmp_path, text, message):
    VideoHasher(SMALL).save(tmp_path / "model")
    (tmp_path / "model" / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match=message):
        VideoHasher.load(tmp_path / "model")
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(tmp_path / "model" / CONFIG_FILE)


def test_a_yaml_bomb_is_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    folder = stranger(tmp_path / "run", config="\n".join(lines))
    with pytest.raises(UserError, match="aliases"):
        read_config(folder)
    for text, message in (("[" * 100_000, "nested too deep"), ("a: 1\n" * 50_000, "bytes, more than")):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_config(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    make_folder(root / "faces", n_people=3)
    assert run("prepare", "folder", root / "faces", root / "out", "--size", 32, "--detector", "none") == 0
    return root / "out"


def record(folder, **changes):
    """Change what a prepared folder says of itself."""
    table = pq.read_table(folder / "manifest.parquet")
    about = {**json.loads(table.schema.metadata[ABOUT]), **changes}
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), folder / "manifest.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": "../elsewhere"}, "outside its folder"),
        ({"crops": ".."}, "outside its folder"),
        ({"blocks": ["../../x.safetensors"]}, "outside its folder"),
        ({"blocks": ["/etc/passwd"]}, "outside its folder"),
        ({"blocks": 3}, "is damaged"),
        ({"data": "../../evil"}, "not an option of data"),
        ({"data": None}, "does not record its option of data"),
    ],
)
def test_paths_in_a_manifest_stay_in_its_folder(prepared, tmp_path, capsys, changes, message):
    shutil.copytree(prepared, tmp_path / "copy")
    record(tmp_path / "copy", **changes)
    assert message in refused(capsys, "train", "debug=tiny", f"data.manifest={tmp_path / 'copy'}", "out=run")


def test_a_link_in_a_prepared_folder_deletes_nothing_elsewhere(prepared, tmp_path, capsys):
    shutil.copytree(prepared, tmp_path / "copy")
    (crops,) = (tmp_path / "copy").glob("crops-*")
    shutil.rmtree(crops)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter.txt").write_text("dear")
    crops.symlink_to(tmp_path / "precious")
    again = ["prepare", "folder", prepared.parent / "faces", tmp_path / "copy", "--size", 32, "--detector", "none"]
    assert "leads out of" in refused(capsys, *again)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["letter.txt"]


def test_a_checkpoint_with_non_tensors_is_refused(tmp_path):
    torch.save({"state_dict": {"hasher.x": 3}, "hasher_config": SMALL}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="not a facereel checkpoint"):
        VideoHasher.load(tmp_path / "odd.ckpt")
