"""The engines: this process, and two workers of Ray, which must give the same; several machines: test_ray_cluster."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray_work
from commands import contents, rows, run
from films import make_film

from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.parallel import executor as module
from facereel.parallel.executor import LOST, RayEngine, in_order, local, make_engine
from facereel.retrieval.build_index import index_source
from facereel.video import TrackSettings
from facereel.video.find_videos import find_videos
from facereel.video.ingest import ingest
from facereel.video.track_file import ENDING, track_path

pytestmark = pytest.mark.slow

SETTINGS = TrackSettings()


def backwards(work, items):
    """As Ray's workers: what is done leaves its process and comes back packed, in any order."""
    for place in reversed(range(len(items))):
        yield place, pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(work))(items[place])))


def lost(work, items):
    yield from ((place, None) for place in range(len(items)))


def test_local_engine_processes_items_in_order():
    assert list(local(ray_work.square, [3, 5])) == [(0, (os.getpid(), 9)), (1, (os.getpid(), 25))]
    assert make_engine("local") is local


def test_early_results_are_held_until_their_turn():
    assert list(in_order(iter([(2, "c"), (0, "a"), (1, "b"), (3, "d")]))) == ["a", "b", "c", "d"]
    results = in_order(iter([(0, "a"), (2, "c")]))
    assert next(results) == "a"  # at once
    assert list(results) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dask",), "engine=dask: must be local or ray"),
        (("local", "head:6379"), "ray_address=head:6379: needs engine=ray"),
        (("ray", "127.0.0.1:9"), "ray_address=127.0.0.1:9: no Ray cluster answers there"),
        (("ray", "ray://head:10001"), "ray_address=ray://head:10001: must be HOST:PORT, as printed by ray start"),
        (("ray", "head"), "ray_address=head: must be HOST:PORT"),
    ],
)
def test_invalid_engine_arguments_are_reported(arguments, message, monkeypatch):
    monkeypatch.setattr(module, "_import_ray", lambda address: None)
    with pytest.raises(UserError, match=message):
        make_engine(*arguments)


def test_index_of_tracks_accepts_workers_only_with_ray(tmp_path, capsys):
    (tmp_path / f"film{ENDING}").write_bytes(b"")
    assert run("index", tmp_path, "--out", tmp_path / "out", "--workers", "2") == 2
    assert capsys.readouterr().err == "facereel: --workers: index uses it for tracks with Ray only: add --engine ray\n"


def test_a_missing_ray_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("ingest", ".", "--out", "out", "--engine", "ray") == 2
    assert capsys.readouterr().err == "facereel: Ray is not installed: pip install 'facereel[ray]'\n"


@pytest.fixture
def in_worker(monkeypatch):
    """What a worker makes of an item."""
    monkeypatch.setattr(module, "import_ray", lambda: SimpleNamespace(get=lambda packed: packed))
    return lambda work, item: pickle.loads(module._run([pickle.dumps(work)], pickle.dumps(item)))


@pytest.mark.parametrize(("error", "kind", "message"), ray_work.ERRORS)
def test_errors_are_returned_from_a_worker(in_worker, error, kind, message):
    """Those of users and of files as they are; a fault of the code is told from bad data."""
    outcome = in_worker(ray_work.fail, error)
    with pytest.raises(kind, match=message) as raised:
        ray_work.fail(outcome)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


def test_a_failed_import_in_a_worker_is_reported(in_worker):
    outcome = in_worker(ray_work.Packed(), 1)
    assert isinstance(outcome, UserError)
    assert "cannot import a module that this process can: No module named 'mine'" in str(outcome)


def test_ray_start_is_retried_and_keeps_the_sigterm_handler(monkeypatch):
    started = []

    def init(**how):
        started.append(how)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        if len(started) < n_good:
            raise Exception("The current node timed out during startup.\nMore.")

    private = SimpleNamespace(worker=SimpleNamespace())
    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None, _private=private)
    monkeypatch.setattr(module, "_import_ray", lambda address: ray)
    before = signal.getsignal(signal.SIGTERM)
    n_good = 3
    with RayEngine()._connected():
        assert signal.getsignal(signal.SIGTERM) is before
    assert [how["address"] for how in started] == ["local"] * 3
    started, n_good = [], 4
    with pytest.raises(UserError, match=r"^cannot start Ray: The current node timed out during startup\.$"):
        RayEngine()._connected().__enter__()
    assert len(started) == 3
    started = []
    with pytest.raises(UserError, match=r"^ray_address=head:6379: cannot use the cluster: "):
        RayEngine("head:6379")._connected().__enter__()
    assert len(started) == 1


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four films, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "anna.mp4", "Anna", seconds=2)
    make_film(folder / "both.avi", "Anna", "Cleo", seconds=1)
    make_film(folder / "room.mov", seconds=1)
    (folder / "damaged.mp4").write_bytes((folder / "anna.mp4").read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def ingested(films, tmp_path_factory):
    """Their tracks as this process finds them."""
    folder = tmp_path_factory.mktemp("ingested")
    ingest(find_videos([films]), folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small one with a class that is not facereel's."""
    from mean_hasher import CONFIG

    folder = tmp_path_factory.mktemp("model")
    VideoHasher(CONFIG).save(folder)
    return folder


def told(capsys, folder):
    """What a command printed, but for its folder's name and the lines by which a slow machine says how far it is."""
    captured = capsys.readouterr()
    lines = captured.out.replace(str(folder), "OUT").splitlines()
    return "\n".join(line for line in lines if " minutes left" not in line) + captured.err


def test_the_order_of_results_changes_nothing(films, ingested, tmp_path):
    shares = []
    done = ingest(
        find_videos([films]), tmp_path, SETTINGS, advance=lambda n, of: shares.append((n, of)), engine=backwards
    )
    assert [video.name for video in done.made] == ["anna.mp4", "both.avi", "room.mov"]
    assert sum(n for n, _ in shares) == shares[0][1] == 4
    assert contents(tmp_path) == contents(ingested)


def test_lost_items_are_reported(films, tmp_path):
    done = ingest(find_videos([films]), tmp_path, SETTINGS, engine=lost)
    assert set(done.bad.values()) == {LOST}
    assert len(done.bad) == 4


def test_a_prepared_data_set_is_indexed_by_any_engine(prepare, model, tmp_path):
    hasher = VideoHasher.load(model)
    prepare("--margin", "1.4")
    here = index_source(tmp_path / "out", tmp_path / "here", hasher)
    there = index_source(tmp_path / "out", tmp_path / "there", hasher, engine=backwards)
    assert here.n_tracks == there.n_tracks > 0
    assert rows(tmp_path / "there") == rows(tmp_path / "here")


@pytest.fixture(scope="module")
def on_ray():
    """An engine of two workers, in a Ray that all tests share: starting it takes seconds."""
    pytest.importorskip("ray", reason="needs the extra ray")
    engine = RayEngine(n_workers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parents[2] / "helpers"), os.environ.get("PYTHONPATH", "")]),
        )
        with engine._connected():
            yield engine


def test_a_dead_worker_loses_only_its_item(on_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 1)  # for speed
    done = dict(on_ray(ray_work.befall, [("meets", tmp_path), ("meets", tmp_path), ("dies", tmp_path)]))
    assert len({done[0], done[1], os.getpid()}) == 3
    assert done[2] is None
    assert len(list(tmp_path.glob("dies-*"))) == 2


def test_ingest_on_ray_writes_the_same_files_and_lines(on_ray, films, ingested, tmp_path, capsys):
    said = []
    for name, options in (("here", ()), ("ray", ("--engine", "ray", "--workers", "2"))):
        (tmp_path / name).mkdir()
        before = Path(shutil.copy2(track_path(ingested, films / "both.avi"), tmp_path / name))
        changed = before.stat().st_mtime_ns
        assert run("ingest", films, "--out", tmp_path / name, *options) == 0
        said.append(told(capsys, tmp_path / name))
        assert before.stat().st_mtime_ns == changed
    assert said[0] == said[1]
    assert f"bad: {films / 'damaged.mp4'}: " in said[0]
    assert "3 of 4 videos; 2 new with 1 tracks, 1 done before, 1 unreadable" in said[0]
    assert contents(tmp_path / "ray") == contents(tmp_path / "here") == contents(ingested)


def test_an_unwritable_target_ends_the_work(on_ray, films, tmp_path):
    track_path(tmp_path, films / "room.mov").mkdir()
    with pytest.raises(UserError, match=r"^Is a directory: .*; 0 of 1 videos are done. Run the same command again"):
        ingest(find_videos([films / "room.mov"]), tmp_path, SETTINGS, engine=on_ray)


def test_index_on_ray_writes_the_same_rows(on_ray, ingested, model, tmp_path, capsys):
    tracks = shutil.copytree(ingested, tmp_path / "tracks")
    damaged = sorted(tracks.iterdir())[0]
    content = bytearray(damaged.read_bytes())
    content[2000:20000] = bytes(18000)  # its crops; what it says of itself is at the end
    damaged.write_bytes(content)
    said = []
    for name, options in (("here", ()), ("ray", ("--engine", "ray", "--workers", "1"))):
        assert run("index", tracks, "--out", tmp_path / name, "--checkpoint", model, *options) == 0
        said.append(told(capsys, tmp_path / name))
    assert said[0] == said[1]
    assert f"bad: {damaged}: " in said[0]
    assert "added 2 videos with 2 tracks, 0 already indexed" in said[0]
    assert rows(tmp_path / "ray") == rows(tmp_path / "here")
    assert run("index", tracks, "--out", tmp_path / "ray", "--checkpoint", model, "--engine", "ray") == 0
    assert "added 0 videos with 0 tracks, 2 already indexed" in capsys.readouterr().out


def test_a_worker_that_does_not_start_is_reported(on_ray, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with pytest.raises(UserError, match="no Ray worker started within 0 s: "):
        list(on_ray(ray_work.square, [1]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_ingest_can_be_continued(on_ray, films, ingested, tmp_path, number, code):
    import ray

    out = tmp_path / "out"
    command = [sys.executable, "-m", "facereel", "ingest", films, "--out", out, "--engine", "ray", "--workers", "1"]
    command += ["--ray-address", ray.get_runtime_context().gcs_address]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 300
    while not list(out.glob(f"*{ENDING}")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate()[0].decode()
    assert process.returncode == code, said
    assert (said == "") == (number == signal.SIGKILL)
    assert said.startswith("facereel: ended by SIGTERM; ") or not said
    kept = contents(out)
    assert 0 < len(kept) < 3
    assert kept.items() <= contents(ingested).items()
    while (done := ingest(find_videos([films]), out, SETTINGS)).busy and time.monotonic() < until:
        time.sleep(0.5)  # its workers take a moment to see that they are alone
    assert done.found + len(done.made) == 3
    assert contents(out) == contents(ingested)
