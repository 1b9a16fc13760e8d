"""The prepare command on drawn faces: whole, resumed, changed, interrupted, and with bad input."""

import json
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run
from drawn_faces import make_umdfaces_videos, make_youtube_faces
from fast_processes import run_script
from prepared_faces import NO_DETECTOR, make_trees
from safetensors.torch import save_file

from facereel.data import open_prepared
from facereel.data.crop_table import read_prepared
from facereel.errors import UserError

pytestmark = pytest.mark.slow


def listing(folder):
    return {path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def files_of(folder):
    return {path: what for path, what in listing(folder).items() if (folder / path).is_file()}


def test_manifest_has_a_row_per_image_with_crop_and_split(trees, tmp_path, prepare):
    before = listing(trees)
    output = prepare("--stills", trees / "lfw").out
    assert listing(trees) == before
    assert "4 people, 8 clips with 24 frames from 8 sources, 5 stills" in output
    assert "24 x cropped by the box" in output
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert len(table) == 24 + 5
    frame = next(row for row in table if row["key"] == "Bo_Öz/1/1.9.jpg")
    assert frame["person"] == "Bo_Öz"
    assert (frame["clip"], frame["source"]) == ("1", "1")
    assert [frame[f"box_{side}"] for side in ("left", "top", "width", "height")] == [30, 11, 64, 62]
    assert frame["landmarks"] is None
    assert {row["split"] for row in table} == {"train", "test", "pretrain_only"}
    assert {row["split"] for row in table if row["person"] == "Stranger"} == {"pretrain_only"}


def test_training_uses_the_prepared_split_and_crops(trees, tmp_path, prepare):
    prepare("--stills", trees / "lfw", "--seed", "3")
    lies = [
        "data=youtube_faces",
        f"data.root={trees / 'ytf'}",
        f"data.stills_root={trees / 'lfw'}",
        "data.detector=null",
    ]
    quick = ["debug=tiny", "seed=3", "stages.stage2=null", "encoder.width=0.125", "head.n_bits=8"]
    assert run("train", f"data.manifest={tmp_path / 'out'}", *quick, f"out={tmp_path / 'a'}") == 0
    assert run("train", *lies, *quick, f"out={tmp_path / 'b'}") == 0
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert a == b
    drawn = json.loads((tmp_path / "out" / "split.json").read_text())
    assert drawn["sha256"] == a["split_sha256"]
    parts = {row["key"]: row["split"] for row in pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()}
    for name in ("train", "test"):
        assert {parts[key] for key in drawn[name]["stills"]} <= {name}
    assert run("evaluate", f"checkpoint={tmp_path / 'a'}") == 0
    assert run("train", f"resume={tmp_path / 'a'}") == 0
    # Train on prepared data and evaluate on the original data, and the other way round.
    assert (
        run("evaluate", f"checkpoint={tmp_path / 'a'}", *lies, "protocol=leave_one_out", f"out={tmp_path / 'c'}") == 0
    )
    manifest = f"data.manifest={tmp_path / 'out'}"
    assert (
        run("evaluate", f"checkpoint={tmp_path / 'b'}", manifest, "protocol=leave_one_out", f"out={tmp_path / 'd'}")
        == 0
    )
    c, d = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "cd")
    assert c["tasks"] == d["tasks"]
    # A root in place of what the run was trained on: here of fewer people.
    make_youtube_faces(tmp_path / "few", {"Ann_Lee": 3, "Cy": 2})
    few = [f"data.root={tmp_path / 'few'}", "data.detector=null", "protocol=leave_one_out", f"out={tmp_path / 'e'}"]
    assert run("evaluate", f"checkpoint={tmp_path / 'a'}", *few) == 0
    e = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert e["tasks"]["clip_to_clip"]["n_queries"] == 5


def test_second_run_writes_nothing(tmp_path, prepare):
    prepare()
    before = files_of(tmp_path / "out")
    assert "nothing to do" in prepare().out
    assert files_of(tmp_path / "out") == before


def test_other_settings_use_another_cache(tmp_path, prepare):
    prepare()
    old = read_prepared(tmp_path / "out")[1]["crops"]
    before = listing(tmp_path / "out" / old)
    prepare("--size", "32", "--margin", "1.5")
    loaded = open_prepared(tmp_path / "out")
    assert loaded.about["crops"] != old
    assert loaded.face_set().images([0]).shape == (1, 3, 32, 32)
    assert listing(tmp_path / "out" / old) == before
    assert run("train", f"data.manifest={tmp_path / 'out'}", "debug=tiny", f"out={tmp_path / 'run'}") == 2
    assert "crops: wrote 0 blocks, reused 3" in prepare().out  # back to the first: its crops are there still


def test_only_blocks_of_changed_images_are_written(tmp_path, prepare):
    root = make_trees(tmp_path / "trees") / "ytf"
    broken = root / "frame_images_DB" / "Cy" / "0" / "0.9.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[:300])
    output = prepare(root=root).out
    assert "1 x truncated image file (Cy/0/0.9.jpg)" in output
    loaded = open_prepared(tmp_path / "out")
    assert [len(clip.rows) for clip in loaded.face_set().clips if clip.key == "Cy/0"] == [2]
    broken.write_bytes(content)
    output = prepare(root=root).out
    assert "crops: wrote 1 blocks, reused 2" in output
    assert "truncated" not in output
    names = {path.name for path in (tmp_path / "out" / loaded.about["crops"]).iterdir()}
    assert names == set(read_prepared(tmp_path / "out")[1]["blocks"])  # the old block is gone


def test_moved_data_set_reuses_its_crops(tmp_path, prepare):
    root = make_trees(tmp_path / "trees") / "ytf"
    prepare(root=root)
    (tmp_path / "trees" / "ytf").rename(tmp_path / "moved")
    assert "crops: wrote 0 blocks, reused 3" in prepare(root=tmp_path / "moved").out
    assert str(tmp_path / "moved") in read_prepared(tmp_path / "out")[0][0].file


def test_full_disk_is_reported_and_the_next_run_completes(trees, tmp_path, prepare, monkeypatch):
    from facereel.data import prepare as module

    calls = []

    def fill(tensors, path):
        calls.append(path)
        if len(calls) > 1:
            path.write_bytes(b"half a crop")
            raise OSError(28, "No space left on device", str(path))
        save_file(tensors, path)

    monkeypatch.setattr(module, "save_file", fill)
    error = prepare(code=2).err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert "1 of 3 blocks of crops are done. Run the same command again to continue" in error
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]
    monkeypatch.undo()
    assert "crops: wrote 2 blocks, reused 1" in prepare().out
    whole = open_prepared(tmp_path / "out").face_set()
    assert run("prepare", "youtube_faces", trees / "ytf", tmp_path / "fresh", *NO_DETECTOR) == 0
    fresh = open_prepared(tmp_path / "fresh").face_set()
    assert np.array_equal(whole.images(range(24)), fresh.images(range(24)))


def test_free_disk_space_is_checked_first(prepare, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1000))
    assert "the crops need 0 MB, but only 0 MB are free" in prepare(code=2).err


def test_killed_run_is_completed_and_leaves_no_partial_file(trees, tmp_path):
    """Killed without a chance to clean up, in the middle of a block."""
    code = (
        "import os, sys; from facereel.data import prepare as m; from facereel.cli.main import main\n"
        "def slow(tensors, path):\n"
        "    if len(list(path.parent.glob('*.safetensors'))) == 1:\n"
        "        path.write_bytes(b'half a crop'); os.kill(os.getpid(), 9)\n"
        "    real(tensors, path)\n"
        "real, m.save_file = m.save_file, slow\n"
        "main(sys.argv[1:])"
    )
    arguments = ["prepare", "youtube_faces", str(trees / "ytf"), str(tmp_path / "out"), *NO_DETECTOR]
    assert run_script(code, *arguments) == -9
    assert any(path.read_bytes() == b"half a crop" for path in (tmp_path / "out").rglob("*") if path.is_file())
    with pytest.raises(UserError, match="there is no manifest"):
        open_prepared(tmp_path / "out")
    assert run(*arguments) == 0
    assert not any(path.read_bytes() == b"half a crop" for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert open_prepared(tmp_path / "out").face_set().images(range(24)).flatten(1).any(dim=1).all()


def test_damaged_block_is_reported_and_written_again(tmp_path, prepare):
    prepare()
    loaded = open_prepared(tmp_path / "out")
    block = loaded.crops.blocks[0]
    assert isinstance(block, Path)
    content = block.read_bytes()
    block.write_bytes(content[:-100])
    with pytest.raises(UserError, match="missing or damaged: run facereel prepare again"):
        open_prepared(tmp_path / "out")
    assert "crops: wrote 1 blocks, reused 2" in prepare().out
    assert block.read_bytes() == content
    block.unlink()
    with pytest.raises(UserError, match="is missing: run facereel prepare again"):
        open_prepared(tmp_path / "out")


def test_folder_of_another_data_set_raises(trees, tmp_path, prepare):
    """Another one's crops would be taken for old ones, and deleted."""
    prepare()
    before = files_of(tmp_path / "out")
    for options in (["--people", "2"], ["--max-frames", "2"], ["--stills", trees / "lfw"]):
        assert "choose another folder, or delete this one" in prepare(*options, code=2).err
    make_umdfaces_videos(tmp_path / "umd", {"Ann": 1})
    error = prepare(source="umdfaces_videos", root=tmp_path / "umd", code=2).err
    assert "was prepared with source youtube_faces, not umdfaces_videos" in error
    assert files_of(tmp_path / "out") == before
    # An unreadable manifest is written again.
    (tmp_path / "out" / "manifest.parquet").write_bytes(b"x")
    assert "crops: wrote 0 blocks, reused 3" in prepare().out


def test_changed_image_is_cropped_again(tmp_path, prepare):
    root = make_trees(tmp_path / "trees") / "ytf"
    prepare(root=root)
    photo = root / "frame_images_DB" / "Cy" / "0" / "0.8.jpg"
    content = photo.read_bytes()
    os.utime(photo, ns=(1, 1))
    assert len(photo.read_bytes()) == len(content)
    assert "crops: wrote 1 blocks, reused 2" in prepare(root=root).out


def test_unreadable_images_are_retried(tmp_path, prepare, monkeypatch):
    path_open = Path.open

    def refuse(file, *args, **kwargs):
        if str(file).endswith("Cy/0/0.8.jpg"):
            raise OSError(5, "Input/output error", str(file))
        return path_open(file, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "1 x file that cannot be read (Cy/0/0.8.jpg)" in prepare().out
    monkeypatch.undo()
    output = prepare().out
    assert "crops: wrote 1 blocks, reused 2" in output
    assert "cannot be read" not in output


def test_heic_is_prepared_after_its_package_is_installed(tmp_path, prepare, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    root = make_trees(tmp_path / "trees") / "ytf"
    photo = root / "frame_images_DB" / "Cy" / "0" / "0.8.jpg"
    image = cv2.imread(str(photo))
    photo.unlink()
    heif.from_bytes("BGR", image.shape[1::-1], image.tobytes()).save(photo, format="HEIF")
    for name in ("pillow_heif", "pi_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    output = prepare(root=root).out
    assert "HEIC image that needs the package pi-heif (pip install 'facereel[heif]') (Cy/0/0.8.jpg)" in output
    monkeypatch.setitem(sys.modules, "pillow_heif", heif)
    output = prepare(root=root).out
    assert "crops: wrote 1 blocks, reused 2" in output
    assert "HEIC" not in output


def test_output_folder_inside_the_data_set_is_an_error(trees, tmp_path, capsys):
    assert run("prepare", "youtube_faces", trees / "ytf", trees / "ytf" / "out", *NO_DETECTOR) == 2
    assert "which is only read" in capsys.readouterr().err
    assert not (trees / "ytf" / "out").exists()


def test_no_split_file_without_a_split(tmp_path, prepare, trees, capsys):
    root = make_trees(tmp_path / "trees") / "ytf"
    prepare(root=root)
    assert (tmp_path / "out" / "split.json").is_file()
    shutil.rmtree(root / "frame_images_DB" / "Ann_Lee")
    shutil.rmtree(root / "frame_images_DB" / "Bo_Öz")
    shutil.rmtree(root / "frame_images_DB" / "Cy" / "1")
    assert "no split is drawn" in prepare(root=root).out
    assert not (tmp_path / "out" / "split.json").exists()
    assert run("inspect", tmp_path / "out", "--contact-sheet", tmp_path / "a.png") == 0
    assert "split drawn by" not in capsys.readouterr().out
    assert run("prepare", "stills", trees / "lfw", tmp_path / "lfw", *NO_DETECTOR) == 0
    output = capsys.readouterr().out
    assert "5 x cropped by the central fraction" in output
    assert f"train with it: facereel train data.manifest=CLIPS data.stills_root={tmp_path / 'lfw'}" in output
    assert run("prepare", "stills", trees / "lfw", tmp_path / "x", "--stills", trees / "lfw", *NO_DETECTOR) == 2
    assert "--stills: stills contains stills itself" in capsys.readouterr().err


def test_run_records_its_crops(tmp_path, prepare, trees, capsys):
    prepare("--margin", "1.5")
    manifest = f"data.manifest={tmp_path / 'out'}"
    quick = ["debug=tiny", "stages.stage1=null", "stages.stage2=null", "encoder.width=0.125", "head.n_bits=8"]
    for wrong, what in (
        ("data.margin=1.2", "data.margin=1.5, not data.margin=1.2"),
        ("data.detector=mtcnn", "detector=None"),
    ):
        assert run("train", manifest, wrong, *quick, f"out={tmp_path / 'run'}") == 2
        assert what in capsys.readouterr().err
    assert run("train", manifest, *quick, f"out={tmp_path / 'run'}") == 0
    assert "margin: 1.5" in (tmp_path / "run" / "config.yaml").read_text()
    assert "crops: size 64, margin 1.5, detector None" in capsys.readouterr().out
    # The manifest in a run's folder lists the evaluated data; it is not a prepared data set.
    assert run("inspect", tmp_path / "run") == 2
    assert "was not written by facereel prepare" in capsys.readouterr().err
    prepare("--margin", "3")
    for command in (["evaluate", f"checkpoint={tmp_path / 'run'}"], ["train", f"resume={tmp_path / 'run'}"]):
        assert run(*command) == 2
        assert "was prepared again with other settings" in capsys.readouterr().err
    # Other crops are taken if asked for, if what the model takes can be cut from them.
    anyhow = ["evaluate", f"checkpoint={tmp_path / 'run'}", manifest, "data.crops=null", f"out={tmp_path / 'a'}"]
    assert run(*anyhow) == 2
    assert "crops of 64 pixels, fewer than the 128 that the model takes" in capsys.readouterr().err
    prepare("--margin", "3", "--size", "128")
    assert run(*anyhow) == 0
    assert "margin 3.0" in capsys.readouterr().out
    # Any name of a folder, and several of them.
    odd = tmp_path / "Bilder = ä, 1"
    (tmp_path / "out").rename(odd)
    assert run("train", f"data.manifest={odd}", *quick, f"out={tmp_path / 'run3'}") == 0
    odd.rename(tmp_path / "out")
    assert run("train", "-m", f"{manifest},{tmp_path / 'out'}", "data.margin=3", *quick, f"out={tmp_path / 's'}") == 0
    assert len(list((tmp_path / "s").glob("*/metrics.json"))) == 2
    assert (
        run("prepare", "stills", trees / "lfw", tmp_path / "lfw", "--margin", "1.5", "--size", "128", *NO_DETECTOR) == 0
    )
    assert run("train", manifest, f"data.stills_root={tmp_path / 'lfw'}", *quick, f"out={tmp_path / 'run2'}") == 2
    assert "clips with crops of margin 3.0 cannot be combined with stills of margin 1.5" in capsys.readouterr().err


def test_faults_are_counted_by_kind_and_strict_raises(tmp_path, prepare):
    root = make_trees(tmp_path / "trees") / "ytf"
    frames = root / "frame_images_DB"
    (frames / "Ann_Lee" / "0" / "0.8.jpg").write_bytes(b"")
    (frames / "Ann_Lee" / "0" / "0.9.jpg").write_bytes(b"no image")
    labels = frames / "Bo_Öz.labeled_faces.txt"
    labels.write_text(labels.read_text(encoding="utf-8").replace("62,42,64,62", "900,42,64,62", 1), encoding="utf-8")
    error = prepare("--strict", root=root, code=2).err
    assert error.startswith("facereel: the data set has faults: ")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    output = prepare(root=root).out
    for line in (
        "1 x empty image file (Ann_Lee/0/0.8.jpg)",
        "1 x image that cannot be decoded (Ann_Lee/0/0.9.jpg)",
        "1 x box outside the image (Bo_Öz/0/0.10.jpg)",
    ):
        assert line in error
        assert f"note: {line}" in output
    table = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert len(table) == 24  # what has no crop stays in the manifest
    # Skipped files are reported wherever the data is used.
    assert open_prepared(tmp_path / "out").face_set().skipped.counts["box outside the image"] == 1
    assert (
        run("prepare", "youtube_faces", make_trees(tmp_path / "b") / "ytf", tmp_path / "c", *NO_DETECTOR, "--strict")
        == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "size=0"),
        (["--margin", "-1"], "margin=-1"),
        (["--protocol", "open"], "--protocol open: must be one of closed_set"),
        (["--people", "9"], "n_people=9: only 3 people"),
        (["--seed", "-1"], "--seed"),
        (["--detector", "/no/such.onnx"], "there is no such file"),
    ],
)
def test_invalid_options_print_one_line(options, message, prepare):
    error = prepare(*options, code=2).err
    assert message in error
    assert error.count("\n") == 1


def test_error_names_unknown_sources_and_roots(tmp_path, prepare, monkeypatch):
    assert "SOURCE ytf: must be one of youtube_faces, umdfaces" in prepare(source="ytf", code=2).err
    for source in ("no_such.module", "facereel.data", "os.path.join"):
        assert f"SOURCE {source} cannot be called as a reader" in prepare(source=source, code=2).err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ytf").mkdir()
    for source in ("./ytf", "../ytf", "ytf"):
        assert "must be one of youtube_faces" in prepare(source=source, root="youtube_faces", code=2).err
    assert "; SOURCE comes before ROOT" in prepare(source="./ytf", root="youtube_faces", code=2).err
    assert "there is no folder" in prepare(root=tmp_path / "absent", code=2).err
    (tmp_path / "empty").mkdir()
    assert "there is no frame_images_DB or aligned_images_DB" in prepare(root=tmp_path / "empty", code=2).err
    (tmp_path / "empty" / "clips").mkdir()
    assert "the data set is empty" in prepare(source="folder", root=tmp_path / "empty", code=2).err


def test_manifest_of_another_program_or_source_is_an_error(trees, tmp_path, prepare, capsys):
    prepare()
    assert run("train", "data=folder", f"data.manifest={tmp_path / 'out'}", f"out={tmp_path / 'run'}") == 2
    assert "was prepared with data=youtube_faces, not data=folder" in capsys.readouterr().err
    assert run("train", f"data.manifest={tmp_path}", f"out={tmp_path / 'run'}") == 2
    assert "there is no manifest" in capsys.readouterr().err
    path = tmp_path / "out" / "manifest.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    assert run("train", f"data.manifest={tmp_path / 'out'}", f"out={tmp_path / 'run'}") == 2
    assert "was not written by facereel prepare" in capsys.readouterr().err
