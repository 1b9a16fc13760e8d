"""Every file in configs is used, every experiment runs, and every command in the README does too."""

import re
import shlex
from importlib import import_module
from typing import Any

import cv2
import pytest
from commands import run
from docs_pages import generated_pages
from drawn_faces import make_folder, make_pairs, make_stills, make_youtube_faces
from drawn_people import draw_image
from films import make_film
from repository import REPOSITORY

from facereel.config.compose import config_dir

EXPERIMENTS = sorted(path.stem for path in (REPOSITORY / "configs" / "experiment").glob("*.yaml"))
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
QUICK = ["debug=tiny"]
# Of the networks that are trained from random weights.
NARROW = ["encoder.width=0.125"]
# Other groups are run elsewhere: data and protocol in test_cli, trainer by every run.
GROUPS = ("encoder", "pooling", "augment", "batch", "head", "loss")
# What options need on the few people here: other sizes than 32 pixels, no weight files, fewer bits, a class.
NEEDS = {
    # Their own sizes; of dlib's the smallest it takes.
    ("encoder", "mobilefacenet"): ["encoder.weights=null"],
    ("encoder", "dlib"): ["encoder.weights=null", "preprocess.size=103", "data.size=138"],
    ("encoder", "sface"): ["encoder.weights=null"],
    ("encoder", "facenet"): ["preprocess.size=80", "data.size=80"],
    ("encoder", "iresnet"): ["encoder.name=r18"],
    ("encoder", "onnx"): [
        "encoder.weights=network.onnx",
        "stages.pretrain=null",
        "stages.stage1.freeze_encoder=true",
    ],
    ("encoder", "own"): ["data.size=32", "encoder._target_=facereel.models.CasiaEncoder"],
    ("encoder", "casia"): ["data.size=32"],
    ("encoder", "casia_bn"): ["data.size=32"],
    ("encoder", "torchvision"): ["data.size=32"],
    ("pooling", "projected_mean_log_covariance"): ["pooling.rank=5"],
    ("head", "itq"): ["head.n_bits=8"],
    ("head", "lda_itq"): ["head.n_bits=3"],
    ("loss", "own"): ["loss.stage1._target_=facereel.losses.OrthoHashLoss"],
    ("experiment", "lda_itq"): ["encoder.weights=null", "head.n_bits=5"],
    ("experiment", "unseen_people"): [*NARROW, "pooling.rank=5", "head.n_bits=3", "batch.n_still_people=0"],
    ("experiment", "finetuned_itq"): ["encoder.weights=null", "head.n_bits=5", "data.detector=null"],
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    people = {f"P{i}": 3 for i in range(6)}
    make_youtube_faces(root / "YTF", people)
    make_pairs(root / "YTF", people)
    make_stills(root / "LFW", people)
    make_folder(root / "FACES", n_people=4)
    return root


def commands():
    """Lines of the README's shell blocks that call facereel, with continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("facereel ")]


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name != "demo"])  # which the README has
def test_experiments_run(experiment, trees, tmp_path):
    data = ["data=youtube_faces", f"data.root={trees / 'YTF'}"]
    needs = NEEDS.get(("experiment", experiment), NARROW)
    assert run("train", f"experiment={experiment}", *data, *needs, *QUICK, f"out={tmp_path / 'run'}") == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def options_of(group):
    return [path.stem for path in sorted((REPOSITORY / "configs" / group).glob("[a-z]*.yaml"))]


def rounds(*groups):
    """Choices of an option of each group, so many that each option is in one."""
    by_group = [options_of(group) for group in groups]
    return [
        [(group, names[i % len(names)]) for group, names in zip(groups, by_group, strict=True)]
        for i in range(max(map(len, by_group)))
    ]


@pytest.mark.parametrize(
    "chosen",
    [*rounds("encoder", "augment", "batch", "head"), *rounds("pooling", "loss")],
    ids=lambda chosen: "-".join(name for _, name in chosen),
)
def test_options_of_the_model_its_augmentation_and_its_losses_run(chosen, trees, tmp_path, monkeypatch):
    if ("encoder", "onnx") in chosen:
        pytest.importorskip("onnxruntime", reason="needs pip install 'facereel[export]'")
        (tmp_path / "network.onnx").write_bytes(import_module("onnx_faces").onnx_network().SerializeToString())
        monkeypatch.chdir(tmp_path)
    if ("loss", "metric_learning") in chosen:
        pytest.importorskip("pytorch_metric_learning", reason="needs pip install 'facereel[metric]'")
    needs = [need for choice in chosen for need in NEEDS.get(choice, [])]
    narrow = [] if "encoder" in dict(chosen) else ["data.size=32", *NARROW]
    stages = [] if "loss" in dict(chosen) else ["stages.stage2=null", "pooling=mean"]
    data = ["data=folder", f"data.root={trees / 'FACES'}", "data.detector=null"]
    options = [f"{group}={option}" for group, option in chosen]
    assert run("train", *data, *QUICK, *narrow, *stages, *options, *needs, f"out={tmp_path / 'run'}") == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_document_their_command(experiment):
    head = (REPOSITORY / "configs" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    comment = "\n".join(line for line in head.splitlines() if line.startswith("#"))
    assert f"facereel train experiment={experiment}" in comment or f"facereel {experiment}" in comment


def test_the_readme_has_commands():
    called = {shlex.split(command)[1] for command in commands()}
    assert {"demo", "prepare", "train", "evaluate", "index", "search", "serve", "people"} <= called


def test_readme_commands_run_in_order(trees, tmp_path, monkeypatch):
    """As written but for the folders and two steps a stage; later commands use the runs of earlier ones."""
    monkeypatch.chdir(tmp_path)
    make_film(tmp_path / "films" / "film.mp4", "Anna", "Bert", seconds=1)
    for file, name in (("someone.jpg", "Anna"), ("a.jpg", "Anna"), ("b.jpg", "Bert")):
        cv2.imwrite(file, draw_image(name))
    for command in commands():
        if command.startswith("facereel serve"):  # which does not end; tests/web drives it
            continue
        command = command.replace("/media/films", "films")
        for name in ("YTF", "LFW", "FACES"):
            command = command.replace(f"/data/{name}", str(trees / name))
        arguments = shlex.split(command)[1:]
        assert run(*arguments, *([*QUICK, *NARROW] if arguments[0] in ("train", "demo") else [])) == 0, command
    assert "00:00:00" in (tmp_path / "both.srt").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        names: dict[str, Any] = {}
        exec(block, names)  # with the index that a command above made
        assert names["result"].video.endswith("film.mp4")
    assert len(list(tmp_path.rglob("metrics.json"))) >= len([c for c in commands() if "train" in c or "evaluate" in c])


PAGES = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "data/README.md", *PAGES])
def test_links_are_valid(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    made_pages = generated_pages()
    # What a heading is called in a link: lower case, words joined by hyphens.
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()}
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        file = (REPOSITORY / page).parent.joinpath(path).resolve()
        made = (
            file.is_relative_to(REPOSITORY / "docs") and file.relative_to(REPOSITORY / "docs").as_posix() in made_pages
        )
        assert made or file.exists(), target
        assert path or heading in headings, target


def test_every_configuration_key_is_explained():
    """A comment stands above each top-level key of the commands' configurations, and of the default batch."""
    for name in ("train", "evaluate", "reproduce", "batch/default"):
        lines = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if re.match(r"[a-z_]+:", line) and not line.startswith(("defaults", "hydra")):
                assert before.startswith("#"), f"{name}.yaml: {line}"
