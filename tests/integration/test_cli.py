"""The commands as a user types them, on drawn faces; in this process, for speed."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from commands import run
from drawn_faces import (
    make_folder,
    make_insightface_bin,
    make_lfw,
    make_pairs,
    make_stills,
    make_youtube_faces,
)

from facereel import VideoHasher
from facereel.evaluation.verification import verify

TASKS = {"still_to_clip", "clip_to_still", "clip_to_clip", "still_to_still"}
FIGURES = {
    "mAP",
    "mAP_interval",
    "mAP_best",
    "mAP_worst",
    "mAP_stable_order",
    "mAP_asymmetric",
    "mAP_real_valued",
    "n_queries",
    "n_queries_without_match",
    "n_gallery",
    "recall_at_1",
    "recall_at_10",
    "precision_at_radius_2",
}
OPEN_SET = {"tpir_at_fpir", "tpir_at_fpir_interval", "n_non_mated"}
PEOPLE = {"Ann_Lee": 3, "Bo_Öz": 3, "Cy": 4, "Di": 3, "Ed": 3, "Fay": 3}


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("facereel: "), error
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("Bilder = ä")
    make_youtube_faces(root / "ytf", PEOPLE)
    make_pairs(root / "ytf", PEOPLE)
    make_stills(root / "lfw", {person: 2 for person in PEOPLE if person != "Di"} | {"Stranger": 2})
    return root


@pytest.fixture(scope="session")
def data(trees):
    folders = [f"data.root={trees / 'ytf'}", f"data.stills_root={trees / 'lfw'}"]
    return ["data=youtube_faces", *folders, "data.detector=null"]


@pytest.fixture(scope="session")
def trained(trees, data):
    out = trees / "run=1 ö"
    small = ["encoder.width=0.25", "head.n_bits=12", "protocol.val_fraction=0.3"]
    assert run("train", "experiment=dhh", *data, "debug=tiny", *small, f"out={out}") == 0
    return out


def test_run_folder_records_its_inputs(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    expected = {"config.yaml", "overrides.json", "versions.json", "split.json", "manifest.parquet"}
    expected |= {"metrics.json", "per_query.csv", "report.html", "model/model.safetensors", "model/model.json"}
    for stage in ("pretrain", "stage1", "stage2"):
        expected |= {f"{stage}/metrics.csv", f"{stage}/last.ckpt"}
    assert expected <= names
    assert not any("=" in name or name.startswith(".") for name in names)
    assert "torch" in json.loads((trained / "versions.json").read_text())["versions"]
    assert "train/loss" in (trained / "stage1" / "metrics.csv").read_text()
    for checkpoint in ("stage2/last.ckpt", "model", ""):
        assert VideoHasher.load(trained / checkpoint).n_bits == 12


def test_metrics_json_has_the_documented_content(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    record = {"protocol", "split_sha256", "n_bits", "seed", "ties", "weights", "versions", "hardware", "verification"}
    assert set(metrics) == record | {"tasks"}
    assert set(metrics["tasks"]) == TASKS
    assert metrics["split_sha256"] == json.loads((trained / "split.json").read_text())["sha256"]
    for figures in metrics["tasks"].values():
        assert set(figures) == FIGURES | OPEN_SET
        low, high = figures.pop("mAP_interval")
        assert 0 <= low <= figures["mAP"] <= high <= 1
        shares = [figures[name] for name in FIGURES & figures.keys() if not name.startswith("n_")]
        assert all(0 <= value <= 1 for value in shares)
        assert figures["mAP_worst"] <= figures["mAP"] <= figures["mAP_best"]
    with (trained / "per_query.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for task, figures in metrics["tasks"].items():
        own = [row for row in rows if row["task"] == task]
        assert len(own) == figures["n_queries"]
        assert all(row["person"] in row["query"].split("/") for row in own)
        for ending in ("", "_asymmetric", "_real_valued"):
            values = [float(row[f"average_precision{ending}"]) for row in own if row["n_relevant"] != "0"]
            assert sum(values) / len(values) == pytest.approx(figures[f"mAP{ending}"], abs=1e-6)


def test_people_without_clip_or_still_are_reported(data, trees, capsys):
    assert run("train", *data, "debug=tiny", "stages.stage1=null", "stages.stage2=null", f"out={trees / 'notes'}") == 0
    output = capsys.readouterr().out
    assert "1 people without a clip, excluded from the search" in output
    assert "1 people trained with frames as stills" in output


def test_evaluate_uses_data_and_protocol_of_the_run(trained):
    before = json.loads((trained / "metrics.json").read_text())
    assert run("evaluate", f"checkpoint={trained}") == 0
    folders = list((trained / "evaluations").iterdir())
    assert [folder.name for folder in folders] == ["youtube_faces-closed_set"]
    again = json.loads((folders[0] / "metrics.json").read_text())
    assert again == before
    assert run("evaluate", f"checkpoint={trained / 'model'}") == 0
    assert (trained / "evaluations" / "youtube_faces-closed_set-2" / "metrics.json").is_file()
    assert json.loads((trained / "metrics.json").read_text()) == before


def test_evaluate_on_other_people(trained, tmp_path, capsys):
    root = make_folder(tmp_path / "others", n_people=3)
    out = tmp_path / "out"
    arguments = ["data=folder", f"data.root={root}", "protocol=leave_one_out", f"out={out}"]
    assert run("evaluate", f"checkpoint={trained / 'stage1' / 'last.ckpt'}", *arguments) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"] == "leave_one_out"
    assert metrics["tasks"]["clip_to_clip"]["n_gallery"] == 9
    assert "trained on" not in capsys.readouterr().out


def test_evaluate_reranks_a_shortlist(trained, tmp_path, capsys):
    for rerank_k in (3, 1000):
        out = tmp_path / str(rerank_k)
        assert run("evaluate", f"checkpoint={trained}", f"rerank_k={rerank_k}", f"out={out}") == 0
        assert "mAP_reranked" in capsys.readouterr().out
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["rerank_k"] == rerank_k
        for figures in metrics["tasks"].values():
            assert set(figures) == FIGURES | OPEN_SET | {"mAP_reranked"}
            assert rerank_k < 1000 or figures["mAP_reranked"] == figures["mAP_asymmetric"]
        report = (out / "report.html").read_text(encoding="utf-8")
        assert "shortlist by real-valued query" in report
        assert f"<dd>at least {rerank_k} items" in report
    assert "Training loss and val mAP by step" in (trained / "report.html").read_text(encoding="utf-8")
    assert "rerank_k" not in (trained / "report.html").read_text(encoding="utf-8")


def test_evaluate_reports_searched_clips_that_were_trained_on(trained, capsys):
    assert run("evaluate", f"checkpoint={trained}", "protocol=leave_one_out") == 0
    assert re.search(
        r"note: \d+ queries and gallery items are in the training or val data of this run", capsys.readouterr().out
    )


def test_evaluate_on_the_pairs_of_youtube_faces(trained, data, trees, tmp_path, capsys):
    with_absent = tmp_path / "my pairs.txt"
    text = (trees / "ytf" / "splits.txt").read_text(encoding="utf-8")
    with_absent.write_text(f"{text}1, Nobody/0, Nobody/1, 1, 1\n", encoding="utf-8")
    for name, pairs, n_absent in (("splits.txt", [], 0), ("my pairs.txt", [f"protocol.pairs={with_absent}"], 1)):
        out = tmp_path / f"out{n_absent}"
        arguments = [*data, "protocol=youtube_faces_pairs", *pairs, f"out={out}"]
        assert run("evaluate", f"checkpoint={trained}", *arguments) == 0
        output = capsys.readouterr().out
        assert "verification, youtube_faces_pairs, 42 pairs in 3 folds" in output
        assert ("note: 1 pairs excluded" in output) == bool(n_absent)
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["protocol"] == "youtube_faces_pairs"
        assert metrics["tasks"] == {}
        found = metrics["verification"]
        counts = {"pairs": name, "n_pairs": 42, "n_pairs_absent": n_absent, "n_folds": 3}
        assert {key: value for key, value in found.items() if key not in ("codes", "real_valued")} == counts
        rows = list(csv.DictReader((out / "verification.csv").open(encoding="utf-8", newline="")))
        same, fold = (
            torch.tensor([row["same"] == "1" for row in rows]),
            torch.tensor([int(row["fold"]) for row in rows]),
        )
        for kind, column in (("codes", "hamming"), ("real_valued", "distance")):
            # What stands in the file is what the figures were made from.
            distances = torch.tensor([float(row[column]) for row in rows], dtype=torch.float64)
            assert verify(distances, same, fold).items() <= found[kind].items()
            low, high = found[kind]["auc_interval"]
            assert 0 <= low <= found[kind]["auc"] <= high <= 1
        assert {row["first"] for row in rows} <= {f"{person}/{n}" for person in PEOPLE for n in range(4)}
        assert "Verification: same person or not" in (out / "report.html").read_text(encoding="utf-8")
        assert len((out / "per_query.csv").read_text().splitlines()) == 1


def test_evaluate_on_the_pairs_of_lfw(trained, tmp_path, capsys):
    root = make_lfw(tmp_path, {"Ann": 3, "Bo": 2, "Cy": 2, "Di": 1})
    data = ["data=lfw", f"data.root={root}", "data.detector=null"]
    assert run("evaluate", f"checkpoint={trained}", *data, "protocol=lfw_pairs", f"out={tmp_path / 'out'}") == 0
    assert "verification, lfw_pairs, 24 pairs in 3 folds" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["verification"]
    assert (found["pairs"], found["n_pairs"], found["n_pairs_absent"]) == ("pairs.txt", 24, 0)
    # Prepared once, it gives the same.
    prepared = tmp_path / "prepared"
    takes = VideoHasher.load(trained).preprocess
    options = ("--detector", "none", "--workers", "1", "--size", str(takes.size))
    assert run("prepare", "lfw", str(root), str(prepared), *options) == 0
    pairs = ["protocol=lfw_pairs", f"protocol.pairs={tmp_path / 'pairs.txt'}"]
    arguments = [f"data.manifest={prepared}", *pairs, f"out={tmp_path / 'again'}"]
    assert run("evaluate", f"checkpoint={trained}", *arguments) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["verification"] == found


def test_evaluate_on_a_file_of_insightface(trained, tmp_path, capsys):
    make_insightface_bin(tmp_path / "agedb_30.bin", n_pairs=24)
    data = ["data=insightface_bin", f"data.root={tmp_path / 'agedb_30.bin'}", f"out={tmp_path / 'out'}"]
    assert run("evaluate", f"checkpoint={trained}", *data, "protocol=insightface_pairs") == 0
    assert "verification, insightface_pairs, 24 pairs in 10 folds" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["verification"]
    assert (found["pairs"], found["codes"]["tmr_at_fmr"]["0.01"]) == ("agedb_30.bin", None)
    (tmp_path / "agedb_30.bin").write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    assert run("evaluate", f"checkpoint={trained}", *data, "protocol=insightface_pairs") == 2
    assert "agedb_30.bin is not a verification set of InsightFace: it names os.system" in one_line(capsys)


def test_a_list_is_trained_on_and_evaluated(trees, data, tmp_path, capsys):
    lines = ["part,key"]
    for person in PEOPLE:
        lines += [f"train,{person}/0", f"gallery,{person}/0", f"gallery,{person}/1", f"query,{person}/2"]
    lines += [f"query,stills/{person}/{person}_0001.jpg" for person in ("Ann_Lee", "Cy")]
    lines += [f"train,stills/{person}/{person}_0002.jpg" for person in ("Ann_Lee", "Cy", "Fay")]
    lines += ["train,Di/0/0.9.jpg"]  # a frame as a still
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    protocol = ["protocol=lists", f"protocol.file={tmp_path / 'list.csv'}"]
    out = tmp_path / "run"
    small = ["encoder.width=0.25", "head.n_bits=12", "debug=tiny", "stages.stage2=null"]
    assert run("train", *data, *protocol, *small, f"out={out}") == 0
    tasks = json.loads((out / "metrics.json").read_text())["tasks"]
    assert {task: (of["n_queries"], of["n_gallery"]) for task, of in tasks.items()} == {
        "still_to_clip": (2, 12),
        "clip_to_clip": (6, 12),
    }
    # The run's own split needs no list any more.
    (tmp_path / "list.csv").rename(tmp_path / "other.csv")
    assert run("evaluate", f"checkpoint={out}", f"out={tmp_path / 'again'}") == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["tasks"] == tasks
    assert "in the training or val data of this run" not in capsys.readouterr().out


def test_wrong_list_raises_before_images_are_read(trained, data, tmp_path, capsys, monkeypatch):
    (tmp_path / "list.csv").write_text("part,key\ngallery,Cy/0\nquery,Cy/nine\n")
    monkeypatch.setattr("facereel.data.source._crop", lambda *_, **__: pytest.fail("images were read"))
    for command in (["evaluate", f"checkpoint={trained}"], ["train", "debug=tiny", f"out={tmp_path / 'run'}"]):
        assert run(*command, *data, "protocol=lists", f"protocol.file={tmp_path / 'list.csv'}") == 2
        assert "line 3 (Cy/nine). Its keys look like Ann_Lee/0 or" in one_line(capsys)
    pairs = tmp_path / "splits.txt"
    pairs.write_text("1, Cy/0, Cy/nine, 1, 1\n")
    assert (
        run("evaluate", f"checkpoint={trained}", *data, "protocol=youtube_faces_pairs", f"protocol.pairs={pairs}") == 2
    )
    assert "of 0 of the 1 pairs in" in one_line(capsys)


def test_mistakes_with_pairs_give_one_line_errors(trained, data, trees, tmp_path, capsys):
    pairs = ["evaluate", f"checkpoint={trained}", "protocol=youtube_faces_pairs"]
    for arguments, message in (
        ([*pairs, "data=orl"], "needs protocol.pairs=FILE: there is no data.root"),
        ([*pairs, "data=folder", f"data.root={make_folder(tmp_path / 'faces')}"], "has no splits.txt nor meta_data"),
        ([*pairs, *data, "protocol.pairs=/no/such"], "protocol.pairs=/no/such: there is no such file or folder"),
        ([*pairs, *data, "baselines=true"], "baselines=true: protocol=youtube_faces_pairs has no search to compare"),
        ([*pairs, *data, "rerank_k=5"], "rerank_k=5: protocol=youtube_faces_pairs has no search"),
        (
            ["train", *data, "debug=tiny", "protocol=youtube_faces_pairs", f"out={tmp_path / 'run'}"],
            "nothing to train on",
        ),
    ):
        assert run(*arguments) == 2
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("closed_set", ["head=shared", "pooling=mean"]),
        ("identity_disjoint", ["augment=sft", "augment.features.warm_up=0", "augment.features.clips=pooled"]),
    ],
)
def test_protocols_heads_poolings_and_sft_run(data, tmp_path, protocol, options):
    small = ["encoder.width=0.125", "head.n_bits=9", "debug=tiny"]
    assert run("train", *data, f"protocol={protocol}", *options, *small, f"out={tmp_path / 'run'}") == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["protocol"] == protocol


def test_a_sweep_runs_every_combination(data, tmp_path):
    small = ["encoder.width=0.125", "debug=tiny", "stages.pretrain=null", "stages.stage2=null"]
    assert run("train", "-m", *data, *small, "head.n_bits=8,12", "seed=0,1", f"out={tmp_path / 'sweep'}") == 0
    metrics = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/metrics.json"))]
    assert [(m["n_bits"], m["seed"]) for m in metrics] == [(8, 0), (8, 1), (12, 0), (12, 1)]


def test_interrupted_run_is_resumed(data, tmp_path, monkeypatch):
    """Stopped behind stage 1, with stage 2 begun; what was done is not done again, and earlier logs stay."""
    from facereel.training import pipeline as training

    out = tmp_path / "run"
    small = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny"]
    monkeypatch.setattr(training, "evaluate_model", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("train", *data, *small, f"out={out}") == 130
    assert not (out / "metrics.json").exists()
    log = (out / "stage2" / "metrics.csv").read_text()
    before = (out / "stage1" / "last.ckpt").stat().st_mtime_ns
    (out / "stage2" / "done.json").unlink()
    monkeypatch.undo()
    assert run("train", f"resume={out}") == 0
    assert (out / "metrics.json").is_file()
    assert (out / "stage1" / "last.ckpt").stat().st_mtime_ns == before
    assert (out / "stage2" / "metrics-before-resume-1.csv").read_text() == log


def test_run_is_not_mixed_with_another(data, tmp_path, capsys):
    small = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny", "stages.stage2=null", f"out={tmp_path / 'run'}"]
    assert run("train", *data, *small) == 0
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    assert run("train", *data, *small, "seed=1") == 2
    assert "contains a run with another configuration" in one_line(capsys)
    assert run("train", *data, *small) == 0
    assert "stage1: already done" in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.json").read_text() == metrics


def test_encoder_of_an_earlier_run_is_reused(data, trained, tmp_path):
    options = ["encoder.width=0.25", "head.n_bits=24", "debug=tiny", f"init_from={trained}"]
    stages = [f"stages.{name}.epochs=0" for name in ("pretrain", "stage1", "stage2")]
    steps = [f"stages.{name}.max_steps=null" for name in ("pretrain", "stage1", "stage2")]
    assert run("train", *data, *options, *stages, *steps, f"out={tmp_path / 'run'}") == 0
    earlier, later = VideoHasher.load(trained), VideoHasher.load(tmp_path / "run")
    assert torch.equal(earlier.encoder.layers[0].weight, later.encoder.layers[0].weight)
    # Said by name and content: the same wherever the runs lie.
    expected = f"CasiaEncoder from {trained.name}, sha256 {earlier.encoder_fingerprint()[:12]}"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["weights"] == expected


def test_wandb_is_offline_by_default(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    small = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny", "stages.stage1=null", "stages.stage2=null"]
    assert run("train", *data, *small, "logger=wandb", f"out={tmp_path / 'run'}") == 0
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert (tmp_path / "run" / "pretrain" / "metrics.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=youtube_faces"], "data.root"),
        (["data=youtube_faces", "data.root=/no/such"], "data.root=/no/such: there is no such file or folder"),
        (["no_such_key=1"], "no_such_key"),
        (["head.no_such_key=1"], "no_such_key"),
        (["data=no_such_data"], "no_such_data"),
        (["batch.identities_per_batch=41"], "identities_per_batch=41: only 40 people"),
        (["protocol=leave_one_out"], "nothing to train on"),
        (["resume=/no/such"], "/no/such is not the folder of a run"),
        (["loss=csq", "head.n_bits=4"], "n_bits=4: too few bits for 40 distinct centers"),
        (["loss=own"], "loss.stage1._target_"),
        (["encoder=own"], "encoder._target_"),
        (["head.n_bits=twelve"], "head.n_bits=twelve: must be a whole number"),
        (["batch.identities_per_batch=2.5"], "batch.identities_per_batch=2.5: must be a whole number"),
        (["data.grayscale=7"], "data.grayscale=7: must be true or false"),
        (["protocol.test_fraction=a"], "protocol.test_fraction=a: must be a number"),
        (["seed=null"], "seed=null: must be a whole number"),
        (["head.n_bits=false"], "head.n_bits=false: must be a whole number"),
        (["preprocess=null"], "preprocess=null: must have keys of its own, such as preprocess._target_"),
        (["stages.stage1=word"], "stages.stage1=word: must have keys of its own, such as stages.stage1.train_hash"),
        (["encoder=null"], "encoder=null: must be one of casia,"),
        (["data.n_people=few"], "data.n_people=few: must be a whole number, or null"),
        (
            ["augment.features=word"],
            "augment.features=word: must have keys of its own, such as augment.features._target_",
        ),
        (["augment.images.geometric.crop.size=-1"], "cannot set up the run: Input and output sizes"),
        (["pooling.method=svd"], "method must be one of"),
        (["batch.n_frames=0"], "batch.n_frames=0"),
        (["batch=no_such_batch"], "no_such_batch"),
        (["encoder=torchvision", "encoder.name=vit_b_32"], "cannot set up the run"),
        (["data=youtube_faces", "data.root=null"], "data.root"),
        (["--no-such-option"], "unknown option --no-such-option"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "debug=tiny", *arguments) == 2
    assert message in one_line(capsys)
    # Found before anything is trained, and without a folder that would stand in the way of the next try.
    assert not list(tmp_path.rglob("config.yaml"))


def test_usage_mistakes_give_one_line(capsys, tmp_path):
    for arguments in (["no-such-command"], ["doctor", "--fast"], ["demo", "--out"]):
        assert run(*arguments) == 2
        assert "facereel --help" in one_line(capsys)
    (tmp_path / "file").write_text("x")
    assert run("train", "debug=tiny", f"out={tmp_path / 'file'}") == 2
    assert "file" in one_line(capsys)


def test_sweep_continues_after_a_failed_job(data, tmp_path, capsys):
    small = ["encoder.width=0.125", "debug=tiny", "stages.pretrain=null", "stages.stage2=null"]
    assert run("train", "-m", *data, *small, "head.n_bits=0,8", f"out={tmp_path / 'sweep'}") == 2
    assert "head.n_bits=0: must be at least 1" in one_line(capsys)
    assert [path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json")] == ["1"]


def test_resumed_run_keeps_its_data_and_model(trained, capsys):
    before = (trained / "config.yaml").read_text()
    for change in ("seed=1", "head.n_bits=16", "protocol=identity_disjoint", "pooling=mean"):
        assert run("train", f"resume={trained}", change) == 2
        assert f"Cannot resume {trained}: it was trained with {change.split('=')[0]}" in one_line(capsys)
    assert (trained / "config.yaml").read_text() == before


def test_run_is_resumed_from_another_directory(data, trees, tmp_path, monkeypatch):
    monkeypatch.chdir(trees)
    relative = ["data=youtube_faces", "data.root=ytf", "data.stills_root=lfw"]
    small = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny", "stages.stage2=null"]
    assert run("train", *relative, *small, f"out={tmp_path / 'run'}") == 0
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "checkpoint=run") == 0
    assert run("train", "resume=run") == 0


def test_mistakes_in_evaluate(trained, tmp_path, capsys):
    assert run("evaluate") == 2
    assert "checkpoint=PATH" in one_line(capsys)
    assert run("evaluate", f"checkpoint={tmp_path / 'absent.ckpt'}") == 2
    assert "no such file" in one_line(capsys)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    assert run("evaluate", f"checkpoint={tmp_path / 'text.ckpt'}") == 2
    assert "not a facereel checkpoint" in one_line(capsys)
    assert run("evaluate", f"checkpoint={trained}", "no_such_key=1") == 2
    assert "no_such_key" in one_line(capsys)
    for device in ("word", "-1", "2.5", "meta", "cuda:77"):
        assert run("evaluate", f"checkpoint={trained}", f"device={device}") == 2
        assert f"device={device}: must be auto, cpu," in one_line(capsys)
    assert run("evaluate", f"checkpoint={trained}", "data=folder", f"data.root={tmp_path / 'nowhere'}") == 2
    assert "there is no such file or folder" in one_line(capsys)


def test_an_empty_data_set_is_fatal(tmp_path, capsys):
    (tmp_path / "clips" / "nobody").mkdir(parents=True)
    assert run("train", "data=folder", f"data.root={tmp_path}", f"out={tmp_path / 'run'}") == 2
    assert "the data set is empty: there are no images in it" in one_line(capsys)


def test_bad_images_among_good_ones_are_counted(tmp_path, capsys):
    root = make_folder(tmp_path / "faces")
    (root / "clips" / "p0" / "c0" / "0.png").write_bytes(b"")
    (root / "clips" / "p1" / "c0" / "notes.txt").write_text("x")
    assert run("train", "data=folder", f"data.root={root}", "debug=tiny", f"out={tmp_path / 'run'}") == 0
    output = capsys.readouterr().out
    assert "1 x empty image file (clips/p0/c0/0.png)" in output
    assert "1 x file that is not an image (clips/p1/c0/notes.txt)" in output


@pytest.mark.parametrize("name", ["out [new]", "a[/b] :cat:"])
def test_paths_are_printed_unchanged(name, tmp_path, capsys, monkeypatch):
    """Rich would read brackets as its markup, and colons as emoji."""
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "faces")
    assert run("prepare", "folder", root, name, "--detector", "none") == 0
    assert f"\n{name}: " in capsys.readouterr().out
    assert run("evaluate", f"checkpoint={name}") == 2
    assert name in one_line(capsys)
    small = ["encoder.width=0.125", "head.n_bits=8", "debug=tiny", "stages.stage1=null", "stages.stage2=null"]
    assert run("train", f"data.manifest={name}", *small, f"out={name}/run") == 0
    output = capsys.readouterr().out
    assert f" in {tmp_path / name / 'run'}\n" in output
    assert f"report: {tmp_path / name / 'run' / 'report.html'}\n" in output


COMMANDS = [
    "demo",
    "train",
    "evaluate",
    "prepare",
    "inspect",
    "ingest",
    "index",
    "search",
    "people cluster",
    "people list",
    "people name",
    "people merge",
    "people export",
    "erase",
    "convert",
    "serve",
    "export",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command, capsys):
    assert run(*command.split(), "--help") == 0
    assert f"facereel {command}" in capsys.readouterr().out


def test_help_lists_the_commands_and_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from facereel.cli.main import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in COMMANDS:
        assert f"\u2502 {command.split()[0]} " in result.stdout
    panels = re.findall(r"^\u256d\u2500 (.*?) \u2500", result.stdout, flags=re.MULTILINE)
    assert panels == ["Options", "Search your videos", "Train and evaluate", "Data", "Tools"]


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_decides(given, expected):
    """The variable counts only if it is set before torch is imported."""
    code = "import os, sys, facereel.cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [expected, "False"]


def test_doctor_prints_versions_and_faiss(capsys):
    assert run("doctor") == 0
    output = capsys.readouterr().out
    for word in ("python", "torch", "FAISS", "hardware", "video decoding"):
        assert word in output


def test_doctor_separates_names_from_values(capsys, monkeypatch):
    found = [("torch", "2.15.0"), ("a name that is longer than every other name", "found"), ("GPUs", "1 CUDA")]
    monkeypatch.setattr("facereel.cli.doctor.report", lambda: iter(found))
    assert run("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [tuple(re.split("  +", line)) for line in lines] == found
    assert len({line.index(value) for line, (_, value) in zip(lines, found, strict=True)}) == 1
