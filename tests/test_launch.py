"""Processes that are started together end together, and speak with one voice."""

import signal
import subprocess
import sys
import time

import pytest

from facereel.launch import launch
from facereel.processes import PARENT

RANK = "import os, sys, time; rank = int(os.environ['RANK'])\n"


def python(code):
    return [sys.executable, "-c", RANK + code]


def test_each_finds_its_place_and_the_first_one_is_heard(tmp_path, capfd):
    told = "print(rank); open(sys.argv[1] + f'/{rank}', 'w').write(' '.join(os.environ[k] for k in sys.argv[2:]))"
    names = ["LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", PARENT]
    assert launch(3, [*python(told), str(tmp_path), *names]) == 0
    places = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [place[:3] for place in places] == [[str(rank), "3", "3"] for rank in range(3)]
    assert places[0][3:] == places[1][3:] == places[2][3:]
    assert capfd.readouterr().out == "0\n"


def test_one_that_fails_ends_the_others_and_its_error_is_shown(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("facereel.launch._GRACE", 0.2)
    code = "rank == 1 and sys.exit('no memory left'); time.sleep(60); open(f'{sys.argv[1]}/{rank}', 'w')"
    assert launch(3, [*python(code), str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())  # ended, not waited for
    error = capfd.readouterr().err
    assert "process 1 of 3 ended with 1:\nno memory left" in error


def test_a_mistake_of_the_users_which_all_tell_of_is_told_once(capfd):
    assert launch(3, python("print('facereel: data.root is missing', file=sys.stderr); sys.exit(2)")) == 2
    assert capfd.readouterr().err == "facereel: data.root is missing\n"


def start(code, *arguments, grace=300.0):
    """A process that launches two of a program of the code."""
    starter = (
        f"import sys; from facereel import launch; launch._GRACE = {grace}\n"
        f"sys.exit(launch.launch(2, {[*python(code), *map(str, arguments)]!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.DEVNULL)


def wait_for(files):
    deadline = time.monotonic() + 300
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_deaf_to_a_signal_are_ended_all_the_same(tmp_path):
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(f'{sys.argv[1]}/ready{rank}', 'w').close(); time.sleep(600)"
    )
    process = start(code, tmp_path, grace=0.2)
    wait_for([tmp_path / f"ready{rank}" for rank in range(2)])
    process.terminate()
    assert process.wait(300) == 128 + signal.SIGKILL


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_each_once(kind, tmp_path):
    """A process in a session of its own is reached by Ctrl-C through the one that started it, and only so."""
    code = (
        "import signal\nfor kind in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(kind, lambda kind, frame: open(f'{sys.argv[1]}/{rank}', 'a').write(f'{kind} '))\n"
        "open(f'{sys.argv[1]}/ready{rank}', 'w').close()\n"
        "while not os.path.exists(f'{sys.argv[1]}/{rank}'): time.sleep(0.02)\n"
        "time.sleep(0.3)\n"  # for a second signal, if there were one
        # When the first one has ended, the other is sent a signal, which does not count.
        "for kind in (signal.SIGTERM, signal.SIGINT): signal.signal(kind, signal.SIG_IGN)\n"
        "open(f'{sys.argv[1]}/done{rank}', 'w').close()\n"
        "while not all(os.path.exists(f'{sys.argv[1]}/done{i}') for i in range(2)): time.sleep(0.02)\n"
        "sys.exit(3)"
    )
    process = start(code, tmp_path)
    wait_for([tmp_path / f"ready{rank}" for rank in range(2)])
    process.send_signal(kind)
    assert process.wait(300) == 3
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"{int(kind)} "] * 2
