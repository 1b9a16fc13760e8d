"""Kill training, ingest, index and reproduce at random times, repeat them, and compare with an uninterrupted run.

    python scripts/tools/kill_trials.py --videos FOLDER --work FOLDER [--trials 10] [--seed 0]

Each command first runs once without interruption. A trial starts it in a new folder, kills its process group with
SIGKILL at a random time between its first file and its end, and repeats the command. The output must be equal, byte for
byte, to that of the uninterrupted run. Training and reproduce use the ORL faces of the extra `demo`, ingest and index
use the videos. You can stop it and run it again: finished trials are not repeated. Exits with 1 if a trial differs.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from facereel.evaluation.report import read_curves
from facereel.retrieval.track_index import TrackIndex
from facereel.storage.files import atomic_write
from facereel.system.environment import commit, hardware

# Few epochs of a small network, one or two seconds each.
SHORT = ("trainer=cpu", "encoder.width=0.25")
EPOCHS = [f"stages.{stage}.epochs={n}" for stage, n in (("pretrain", 3), ("stage1", 3), ("stage2", 2))]
# Three runs, and the run that they start from.
TABLE = (
    "table.scales.smoke.base=['stages.pretrain.epochs=2','stages.stage1=null','stages.stage2=null']",
    "table.scales.smoke.overrides=['experiment=dhh_frozen','augment=none','trainer.nonfinite=skip',"
    "'stages.stage1.epochs=2','stages.stage2.epochs=1']",
)


@dataclasses.dataclass
class Kind:
    """A command, and the part of its output to compare."""

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, bytes]]


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return file contents by path in the folder, without hidden files: locks, and leftovers of killed processes."""
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if not path.name.startswith(".")}


def trained(folder: Path) -> dict[str, bytes]:
    """Return the metrics, results per query, models of all stages, split and logged curves of a run."""
    result = files(folder, "metrics.json", "per_query.csv", "split.json", "comparison*", "model/*", "*/model/*")
    return {**result, "curves": json.dumps(read_curves(folder)).encode()}


def indexed(folder: Path) -> dict[str, bytes]:
    """Return the database rows, codes, model and thumbnails of an index."""
    with closing(sqlite3.connect(folder / "index.sqlite")) as database:
        # The files of codes have random names, and their sizes depend on when codes were saved.
        rows = "\n".join(row for row in database.iterdump() if "'segments'" not in row)
    codes = TrackIndex(folder).codes()
    of_codes = {f"code {id_}": bytes(code) for id_, code in zip(codes.ids, codes.packed, strict=True)}
    return {**files(folder, "model/*", "thumbnails/*/*"), **of_codes, "index.sqlite": rows.encode()}


def reproduced(folder: Path) -> dict[str, bytes]:
    """Return the files of a table, without the name of their folder, and the results of its runs."""
    table = files(folder, "*.md", "*.csv", "*.tex", "*.svg")
    table = {name: data.replace(str(folder).encode(), b"") for name, data in table.items()}
    runs = {f"{run.name}/{name}": data for run in (folder / "runs").iterdir() for name, data in trained(run).items()}
    return {**table, **runs}


def kinds(videos: Path, work: Path) -> list[Kind]:
    """Return the four commands; index reads the output of the uninterrupted ingest."""
    return [
        Kind("train", lambda out: ["train", "experiment=demo", *SHORT, *EPOCHS, f"out={out}"], trained),
        Kind(
            "ingest",
            lambda out: [
                "ingest",
                str(videos),
                "--out",
                str(out),
                "--fps",
                "1",
                "--workers",
                "1",
                "--min-detections",
                "2",
            ],
            lambda folder: files(folder, "*"),
        ),
        Kind("index", lambda out: ["index", str(work / "ingest" / "unbroken"), "--out", str(out)], indexed),
        Kind(
            "reproduce",
            lambda out: ["reproduce", "table=gradient", "seeds=[0]", "workers=2", *TABLE, *SHORT, f"out={out}"],
            reproduced,
        ),
    ]


@contextmanager
def started(kind: Kind, out: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a command, started in a new process group; the group is killed at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "facereel", *kind.arguments(out)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def to_the_end(kind: Kind, out: Path, log: Path) -> tuple[float, float]:
    """Return the seconds that a command takes to write its first file, and to end."""
    began = time.monotonic()
    first: float | None = None
    with started(kind, out, log) as process:
        while process.poll() is None:
            if first is None and out.is_dir() and any(path.is_file() for path in out.rglob("*")):
                first = time.monotonic() - began
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{kind.name} ended with {process.returncode}: {' '.join(last_line(log).split())}")
    total = time.monotonic() - began
    return first or total, total


def kill_at(kind: Kind, out: Path, log: Path, moment: float) -> float | None:
    """Start a command and kill it with all its processes.

    Returns:
        None if it was killed; the seconds it took if it ended before.
    """
    began = time.monotonic()
    with started(kind, out, log) as process:
        while (now := time.monotonic() - began) < moment:
            if process.poll() is not None:
                return now
            time.sleep(0.01)
        return None


def last_line(log: Path) -> str:
    """Return the last line that a command printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing yet")


def trial(kind: Kind, number: int, seed: int, times: list[float], whole: dict[str, bytes], folder: Path) -> str:
    """Return the result of killing a command once and continuing; corrects `times` if the command has become faster."""
    draws = random.Random(f"{seed} {kind.name} {number}")
    out, log = folder / "trial", folder / "log.txt"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        first, total = times
        moment = first + draws.random() * (total - first)
        ended = kill_at(kind, out, log, moment)
        if ended is None:
            break
        times[:] = first * ended / total, ended
    printed = last_line(log)[-60:]
    _, again = to_the_end(kind, out, log)
    result = kind.result(out)
    different = sorted(name for name in whole.keys() | result.keys() if whole.get(name) != result.get(name))
    outcome = f"{len(whole)} files equal" if not different else f"DIFFERENT: {', '.join(different)[:200]}"
    if not different:
        shutil.rmtree(out)
    how = f"killed at {moment:5.1f} of about {total:5.1f} s ({printed})"
    return f"{kind.name:9} {number:2}: {how}, then {again:5.1f} s: {outcome}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="some of train, ingest, index and reproduce")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    print(f"{hardware()}; commit {commit() or 'unknown'}; seed {options.seed}", flush=True)
    good = n_trials = 0
    for kind in kinds(options.videos.absolute(), work):
        if options.only and kind.name not in options.only:
            continue
        folder = work / kind.name
        folder.mkdir(exist_ok=True)
        state = folder / "done.json"
        if not state.is_file():
            shutil.rmtree(folder / "unbroken", ignore_errors=True)
            times = to_the_end(kind, folder / "unbroken", folder / "unbroken.txt")
            _save(state, {"times": times, "lines": []})
        known = json.loads(state.read_text(encoding="utf-8"))
        whole = kind.result(folder / "unbroken")
        for number in range(1, options.trials + 1):
            if number > len(known["lines"]):
                known["lines"].append(trial(kind, number, options.seed, known["times"], whole, folder))
                _save(state, known)
            print(known["lines"][number - 1], flush=True)
            n_trials += 1
            good += known["lines"][number - 1].endswith("equal")
    print(f"{good} of {n_trials}")
    sys.exit(good != n_trials)


def _save(state: Path, content: dict[str, object]) -> None:
    with atomic_write(state) as path:
        path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
