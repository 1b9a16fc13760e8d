"""A run to which something happens."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
from commands import run
from drawn_faces import make_folder
from films import make_film
from repository import REPOSITORY

from facereel.cli import main as cli
from facereel.errors import Terminated
from facereel.retrieval.track_index import TrackIndex

QUICK = [
    *("encoder.width=0.125", "head.n_bits=8", "data.size=32", "data.detector=null", "trainer=cpu", "augment=none"),
    *("batch.identities_per_batch=3", "batch.n_clips=1", "batch.n_stills=1", "batch.n_frames=2", "batch.batch_size=8"),
    *("stages.stage1=null", "stages.stage2=null", "protocol.val_fraction=0.0"),
]


def test_full_disk_keeps_the_last_checkpoint_intact(tmp_path, small_files, capsys):
    make_folder(tmp_path / "faces", n_people=4)
    out = tmp_path / "run"
    options = ["data=folder", f"data.root={tmp_path / 'faces'}", *QUICK, f"out={out}"]
    assert run("train", *options, "stages.pretrain.epochs=1") == 0
    last = out / "pretrain" / "last.ckpt"
    before = last.read_bytes()
    (out / "pretrain" / "done.json").unlink()
    capsys.readouterr()
    small_files(len(before) // 2)
    assert run("train", f"resume={out}", "stages.pretrain.epochs=2", "stages.pretrain.schedule=constant") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"facereel: File too large: {out}/pretrain/last.ckpt; the checkpoints are intact. ")
    assert error.endswith(f"Continue from the last one with facereel train resume={out}\n")
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*"))


@pytest.fixture
def start():
    """Start a command in a process group, of which nothing is left at the end of the test."""
    started = []

    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "facereel", *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        return started[-1]

    yield call
    for process in started:
        with suppress(ProcessLookupError):  # it has ended, as it should
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def terminate_once(condition, process):
    """Send SIGTERM when something is there, and return what is said."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    return process.communicate()[1]


def test_reproduce_stops_the_processes_it_started(tmp_path, start):
    """Its run saves what it has, and both end."""
    make_folder(tmp_path / "faces", n_people=4)
    options = [
        *("table=gradient", "seeds=[0]", "workers=1", f"out={tmp_path / 'tables'}"),
        *("table.scales.smoke.source=folder", f"sources.folder.root={tmp_path / 'faces'}"),
        *("table.scales.smoke.common=[]", "table.scales.smoke.columns={ORL:{source:folder}}"),
        "table.scales.smoke.base=['stages.pretrain.epochs=100000','stages.stage1=null','stages.stage2=null']",
        *(option for option in QUICK if "stages" not in option),
    ]
    process = start("reproduce", *options)
    error = terminate_once(lambda: [*tmp_path.glob("tables/runs/*/pretrain/last.ckpt")], process)
    assert process.returncode == 143
    assert error == (
        "facereel: ended by SIGTERM; continue train with resume=RUN_DIR, other commands by running them again\n"
    )
    (log,) = tmp_path.glob("tables/runs/*/log.txt")
    assert log.read_text().splitlines()[-1].startswith("facereel: ended by SIGTERM; pretrain is saved after ")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_sigterm_waits_for_an_import(tmp_path, monkeypatch):
    """An exception out of PyTorch's C++, which imports modules, would abort."""
    (tmp_path / "half_imported.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def work():
        import_module("half_imported")
        time.sleep(60)

    with pytest.raises(Terminated), cli._terminable():
        work()
    assert sys.modules["half_imported"].whole


def test_ingest_leaves_no_partial_files(tmp_path, start):
    film = make_film(tmp_path / "film.avi", "Anna", seconds=20)
    process = start("ingest", film, "--out", tmp_path / "tracks", "--workers", "1", "--fps", "10")
    error = terminate_once(lambda: [*tmp_path.glob("tracks/.*.lock")], process)
    assert (process.returncode, error.count("\n")) == (143, 1)
    assert error.startswith("facereel: ended by SIGTERM; ")
    assert not list((tmp_path / "tracks").iterdir())


def lines_until(process, text):
    """Read lines of a process up to one that contains a text."""
    found = []
    for line in process.stdout:
        found.append(line)
        if text in line:
            return found
    raise AssertionError(f"{text!r} is not in {found}; {process.stderr.read()}")


def test_watch_adds_videos_and_ends_cleanly(tmp_path):
    film = make_film(tmp_path / "films" / "a.mp4", "Anna", seconds=1)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-u", "-m", "facereel", "index", film.parent, "--out", tmp_path / "index", "--watch"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--interval", "0.2"], env=environment, **pipes) as process:
        try:
            assert f"{film}: 1 track\n" in lines_until(process, "watching ")
            TrackIndex(tmp_path / "index").people.name([1], "Anna")
            assert run("index", film.parent, "--out", tmp_path / "index", "--watch") == 2  # a second one
            film.rename(film.with_name("b.mp4"))
            make_film(tmp_path / "aside.mp4", "Bert", seconds=1).rename(film)
            lines_until(process, "was moved from")
            while len(TrackIndex(tmp_path / "index")) < 2:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
    tracks = TrackIndex(tmp_path / "index").tracks()
    assert [(track.video, track.person) for track in tracks] == [
        (str(film.with_name("b.mp4")), "Anna"),
        (str(film), None),
    ]
    assert not list((tmp_path / "index").glob(".*"))


def test_no_name_is_lost_if_index_is_killed(tmp_path):
    """A few of the kills of the script, which makes 200."""
    script = REPOSITORY / "scripts" / "tools" / "kill_index.py"
    options = ["--work", tmp_path, "--kills", "2", "--films", "6", "--longest", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 folders differ")
