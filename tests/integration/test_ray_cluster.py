"""A Ray cluster of several machines, each a node with processes of its own, on which machines and the head fail."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import pytest
from commands import contents, rows, run
from films import frames, write_film

from facereel.models import VideoHasher
from facereel.video.track_file import ENDING

Cluster = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray").Cluster
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not [*Path("/proc/self/task").glob("*/children")], reason="reads processes' children in /proc"),
]

PATIENCE_S = 600


@contextmanager
def machines(n_workers, port=None):
    """A head that has no processor, and workers that have one each."""
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "gcs_server_port": port, "include_dashboard": False})
    try:
        for _ in range(n_workers):
            cluster.add_node()
        yield cluster
    finally:
        for node in cluster.list_all_nodes():
            fail(node)
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)  # which Ray replaced


def processes(node):
    """The processes of a machine: those that Ray started, and their children, the workers."""
    found = [info.process.pid for kind in node.all_processes.values() for info in kind]
    for pid in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def send(number, node):
    for pid in processes(node):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def fail(node):
    """End all processes of a machine at once, as if its power failed."""
    send(signal.SIGSTOP, node)
    send(signal.SIGKILL, node)


def is_writing(node, out):
    """Whether a machine has locked a track file."""
    files = []
    for pid in processes(node):
        with suppress(OSError):
            files += [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    return any(file.startswith(f"{out}/.") and file.endswith(f"{ENDING}.lock") for file in files)


def everything(folder):
    """All files of a folder, with locks and partial files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(condition):
    until = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return value


@contextmanager
def ingest_on(cluster, films, out):
    command = [sys.executable, "-m", "facereel", "ingest", films, "--out", out]
    command += ["--engine", "ray", "--ray-address", cluster.address]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films that take long enough to be interrupted, of few drawn frames."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("Anna", "Cleo"):
        images = [*frames(name, seconds=0.5)]
        for n_seconds in (15, 16):
            write_film(folder / f"{name}{n_seconds}.mp4", islice(cycle(images), 10 * n_seconds))
    return folder


@pytest.fixture(scope="module")
def ingested(films, tmp_path_factory):
    """Their tracks without Ray."""
    folder = tmp_path_factory.mktemp("ingested")
    assert run("ingest", films, "--out", folder, "--workers", 1) == 0
    return folder


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        helpers = Path(__file__).parents[1] / "helpers"
        patch.setenv("PYTHONPATH", os.pathsep.join([str(helpers), os.environ.get("PYTHONPATH", "")]))
        with machines(2) as cluster:
            yield cluster


def test_a_failed_machine_changes_nothing(cluster, films, ingested, tmp_path):
    out = tmp_path / "out"
    with ingest_on(cluster, films, out) as process:
        failed = wait_for(lambda: next((node for node in cluster.worker_nodes if is_writing(node, out)), None))
        fail(failed)
        said, errors = process.communicate(timeout=PATIENCE_S)
    cluster.worker_nodes.remove(failed)
    assert (process.returncode, errors) == (0, "")
    assert said.count(": 1 track\n") == 4
    assert "4 of 4 videos; 4 new with 4 tracks, 0 done before, 0 unreadable" in said
    assert everything(out) == contents(ingested)


def test_index_on_a_cluster_writes_the_same_rows(cluster, ingested, tmp_path):
    from mean_hasher import CONFIG

    VideoHasher(CONFIG).save(tmp_path / "model")
    for name, options in (("here", ()), ("there", ("--engine", "ray", "--ray-address", cluster.address))):
        assert run("index", ingested, "--out", tmp_path / name, "--checkpoint", tmp_path / "model", *options) == 0
    assert rows(tmp_path / "there") == rows(tmp_path / "here")


def test_a_lost_head_ends_the_command_with_one_line(cluster, films, ingested, tmp_path):
    """The last test of this cluster."""
    out, address = tmp_path / "out", cluster.address
    with ingest_on(cluster, films, out) as process:
        wait_for(lambda: contents(out) if out.exists() else None)
        for node in cluster.worker_nodes:
            send(signal.SIGSTOP, node)  # or they might do the rest in time
        fail(cluster.head_node)
        said, errors = process.communicate(timeout=PATIENCE_S)
    for node in cluster.list_all_nodes():
        fail(node)
    assert process.returncode == 2
    assert errors == (
        f"facereel: the head of the Ray cluster at {address} is lost: [Errno 111] Connection refused; finished work is "
        "kept. Start Ray again, and run the same command again\n"
    )
    kept = contents(out)
    assert 0 < len(kept) < 4
    assert kept.items() <= contents(ingested).items()
    with machines(1, int(address.rpartition(":")[2])) as again, ingest_on(again, films, out) as process:
        said, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert f"4 of 4 videos; {4 - len(kept)} new with {4 - len(kept)} tracks, {len(kept)} done before" in said
    assert everything(out) == contents(ingested)
