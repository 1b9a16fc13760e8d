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


def test_one_that_fails_ends_the_others_and_its_error_is_shown(monkeypatch, capfd):
    monkeypatch.setattr("facereel.launch._GRACE", 0.2)
    started = time.monotonic()
    assert launch(3, python("rank == 1 and sys.exit('no memory left'); time.sleep(60)")) == 1
    assert time.monotonic() - started < 30
    error = capfd.readouterr().err
    assert "process 1 of 3 ended with 1:\nno memory left" in error


def test_a_mistake_of_the_users_which_all_tell_of_is_told_once(capfd):
    assert launch(3, python("print('facereel: data.root is missing', file=sys.stderr); sys.exit(2)")) == 2
    assert capfd.readouterr().err == "facereel: data.root is missing\n"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_each_once(kind, tmp_path):
    """A process in a session of its own is reached by Ctrl-C through the one that started it, and only so."""
    code = (
        "import signal\nfor kind in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(kind, lambda kind, frame: open(f'{sys.argv[1]}/{rank}', 'a').write(f'{kind} '))\n"
        "open(f'{sys.argv[1]}/ready{rank}', 'w').close()\n"
        "while not os.path.exists(f'{sys.argv[1]}/{rank}'): time.sleep(0.02)\n"
        "time.sleep(0.3); sys.exit(3)"
    )
    starter = f"from facereel.launch import launch; sys.exit(launch(2, {[*python(code), str(tmp_path)]!r}))"
    process = subprocess.Popen([sys.executable, "-c", f"import sys; {starter}"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(kind)
    assert process.wait(60) == 3
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"{int(kind)} "] * 2
