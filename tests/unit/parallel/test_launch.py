"""Processes that are started together end together, and only the first one prints."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facereel.parallel.distributed import RUN_ID
from facereel.parallel.launch import launch

pytestmark = pytest.mark.slow

RANK = "import os, sys, time; rank = int(os.environ['RANK'])\n"


def python(code):
    return [sys.executable, "-c", RANK + code]


def test_each_process_has_its_rank_and_only_the_first_prints(tmp_path, capfd):
    told = "print(rank); open(sys.argv[1] + f'/{rank}', 'w').write(' '.join(os.environ[k] for k in sys.argv[2:]))"
    names = ["LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"]
    assert launch(3, [*python(told), str(tmp_path), *names]) == 0
    places = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [place[:3] for place in places] == [[str(rank), "3", "3"] for rank in range(3)]
    assert places[0][3:] == places[1][3:] == places[2][3:]
    assert places[0][-1] == f"{RUN_ID}{os.getpid()}"
    assert capfd.readouterr() == ("0\n", "")


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("5", "5")])
def test_processors_are_divided_among_processes(given, expected, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("facereel.parallel.launch.n_processors", lambda: 7)
    assert launch(2, python("print(os.environ['OMP_NUM_THREADS'])")) == 0
    assert capfd.readouterr() == (f"{expected}\n", "")


def test_a_failing_process_ends_the_others_and_shows_its_error(capfd, tmp_path):
    code = "rank == 1 and sys.exit('no memory left'); time.sleep(60); open(f'{sys.argv[1]}/{rank}', 'w')"
    assert launch(3, [*python(code), str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())  # ended, not waited for
    error = capfd.readouterr().err
    assert error == "process 1 of 3 ended with exit code 1:\nno memory left\n\n"


def test_a_mistake_that_all_processes_report_is_printed_once(capfd):
    code = "rank and time.sleep(60); print('facereel: data.root is missing', file=sys.stderr); sys.exit(2)"
    assert launch(3, python(code)) == 2
    assert capfd.readouterr().err == "facereel: data.root is missing\n"


def start(code, *arguments, grace=300):
    """A process that launches two of a program of the code."""
    starter = (
        f"import sys; from facereel.parallel import launch; launch._GRACE = {grace}\n"
        f"sys.exit(launch.launch(2, {[*python(code), *map(str, arguments)]!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.PIPE, text=True)


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for(files):
    wait_until(lambda: all(file.exists() for file in files))


def test_processes_that_ignore_a_signal_are_killed(tmp_path):
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(f'{sys.argv[1]}/ready{rank}', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    process = start(code, tmp_path, grace=1)
    wait_for([tmp_path / f"ready{rank}" for rank in range(2)])
    process.terminate()
    assert process.wait(300) == 128 + signal.SIGTERM
    assert process.communicate()[1] == ""
    for rank in range(2):
        assert not is_running(int((tmp_path / f"ready{rank}").read_text()))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_each_process_once(kind, tmp_path):
    """Ctrl-C reaches the launcher only, which sends it on: each process has its own session."""
    code = (
        "import signal\nfor kind in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(kind, lambda kind, frame: open(f'{sys.argv[1]}/{rank}', 'a').write(f'{kind} '))\n"
        "open(f'{sys.argv[1]}/ready{rank}', 'w').close()\n"
        "while not os.path.exists(f'{sys.argv[1]}/{rank}'): time.sleep(0.02)\n"
        "time.sleep(0.3)\n"  # for a second signal, if there were one
        "sys.exit(3)"
    )
    process = start(code, tmp_path)
    wait_for([tmp_path / f"ready{rank}" for rank in range(2)])
    process.send_signal(kind)
    assert process.wait(300) == 128 + kind
    assert process.communicate()[1] == ""
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"{int(kind)} "] * 2


def test_processes_end_after_their_launcher_was_killed(tmp_path):
    code = (
        "from omegaconf import OmegaConf; from facereel.parallel import distributed\n"
        "distributed.join_process_group(OmegaConf.create({'devices': 2, 'accelerator': 'cpu'}))\n"
        "file = open(f'{sys.argv[1]}/{rank}', 'w'); file.write(str(os.getpid())); file.close()\n"
        "os.rename(file.name, f'{sys.argv[1]}/ready{rank}'); time.sleep(600)"
    )
    process = start(code, tmp_path)
    wait_for([tmp_path / f"ready{rank}" for rank in range(2)])
    process.kill()
    pids = [int((tmp_path / f"ready{rank}").read_text()) for rank in range(2)]
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_the_first_process_reports_a_mistake_before_the_others_end(capfd):
    """The second process meets the mistake first."""
    code = (
        "from omegaconf import OmegaConf; from facereel.parallel import distributed\n"
        "distributed.join_process_group(OmegaConf.create({'devices': 2, 'accelerator': 'cpu'}))\n"
        "rank or time.sleep(1)\n"
        "distributed.let_first_report(); print('facereel: no clips', file=sys.stderr); sys.exit(2)"
    )
    assert launch(2, python(code)) == 2
    assert capfd.readouterr().err == "facereel: no clips\n"
