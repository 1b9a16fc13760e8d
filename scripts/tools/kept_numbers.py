"""Record the numbers of tiny runs before a restructuring, and compare them to the digit afterwards.

    python scripts/tools/kept_numbers.py FILE [--only demo,train,...]

Writes FILE (JSON) if it is absent. Otherwise runs the same jobs, prints each number that differs from FILE, and exits
with code 1 if there is one. It takes about three minutes on two cores.

Only the command line is used, so that the package behind it can change. If a flag or a configuration key is renamed,
change `COMMANDS`. If a key in the output is renamed, add it to `RENAMED`: old records stay comparable.

Compare records of one machine only: video encoders and rounding differ between machines.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY / "tests"), str(REPOSITORY / "examples")]

from drawn_faces import make_folder  # noqa: E402
from drawn_people import draw_image  # noqa: E402
from films import make_film  # noqa: E402

# Every command that is run. Each starts in a temporary folder, to which all paths are relative.
COMMANDS = {
    "demo": "demo --out demo encoder.width=0.25 stages.pretrain.epochs=1 stages.stage1.epochs=1 stages.stage2.epochs=1",
    "train": "train experiment=dhh data=folder data.root=faces data.detector=null protocol.val_fraction=0.3"
    " trainer=cpu seed=0 encoder.width=0.25 head.n_bits=12 stages.pretrain.epochs=1 stages.stage1.epochs=2"
    " stages.stage2.epochs=1 batch.identities_per_batch=3 batch.n_clips=1 batch.n_stills=1 batch.n_frames=3"
    " batch.batch_size=12 out=run",
    "evaluate": "evaluate checkpoint=run baselines=true rerank_k=3 device=cpu out=evaluated",
    "verify": "evaluate checkpoint=run protocol=youtube_faces_pairs protocol.pairs=pairs.txt device=cpu out=verified",
    "prepare": "prepare folder faces prepared --detector none --size 48 --workers 1",
    "ingest": "ingest films --out tracks --workers 1",
    "index": "index tracks --out index",
    "search": "search query.png --index index --tracks --json",
    "cluster": "people cluster --index index",
    # Without workers= it starts one run per processor, with one thread each.
    "table": "reproduce table=dhh scale=smoke out=tables seeds=[0] debug=tiny encoder.width=0.125 data.n_people=8"
    " stages.stage2=null",
}

# Keys of the output that were renamed: old to new.
RENAMED = {
    "mAP_float": "mAP_real_valued",
    "mAP_database_order": "mAP_stable_order",
    "share": "central_fraction",
}

# Keys to record, by their new names.
METRICS = {"tasks", "verification", "split_sha256", "n_bits"}
HITS = {"rank", "video", "track", "start_s", "end_s", "distance", "person", "match"}
TABLE_COLUMNS = {"mean", "std", "low", "high", "best", "p", "values"}
# Not recorded: the path of the image file, which is in a temporary folder.
MANIFEST_EXCLUDED = {"file"}


class Workspace:
    """A temporary folder with the inputs of the jobs, in which commands run.

    Args:
        folder: where the inputs and all outputs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outputs: dict[str, str] = {}

    def run(self, *names: str) -> str:
        """Run some of `COMMANDS`, each once; exit if a command fails.

        Args:
            *names: names of the commands.

        Returns:
            The standard output of the last command.
        """
        for name in names:
            if name not in self._outputs:
                self._outputs[name] = self._run(name)
        return self._outputs[names[-1]]

    def _run(self, name: str) -> str:
        source = os.pathsep.join(filter(None, [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "facereel", *COMMANDS[name].split()]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"facereel {COMMANDS[name]}\nfailed with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def draw_faces(self) -> None:
        """Draw a folder data set of 6 people, and pairs of its clips in 2 folds."""
        make_folder(self.folder / "faces", n_people=6, n_clips=4)
        lines = ["split number, first name, second name, is same, is male"]
        for person in range(6):
            other = (person + 2) % 6  # in the same fold
            lines.append(f"{person % 2 + 1}, p{person}/c0, p{person}/c1, 1, 1")
            lines.append(f"{person % 2 + 1}, p{person}/c2, p{other}/c3, 0, 1")
        (self.folder / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def draw_films(self) -> None:
        """Draw three films of three people, and an image of one of them."""
        for seed, names in enumerate((["Anna"], ["Anna", "Bert"], ["Cleo", "Bert"])):
            make_film(self.folder / "films" / f"film{seed}.mp4", *names, seconds=2.0, seed=seed)
        cv2.imwrite(str(self.folder / "query.png"), draw_image("Bert"))


def demo(work: Workspace) -> dict[str, Any]:
    """Return the results of training on ORL."""
    work.run("demo")
    return read_run(work.folder / "demo")


def train(work: Workspace) -> dict[str, Any]:
    """Return the results of training on drawn people, evaluating the run, and verifying pairs of clips with it."""
    work.run("train", "evaluate", "verify")
    return {name: read_run(work.folder / name) for name in ("run", "evaluated", "verified")}


def prepare(work: Workspace) -> dict[str, Any]:
    """Return the content of the manifest and the blocks of crops of prepared drawn people."""
    work.run("prepare")
    table = pq.read_table(next((work.folder / "prepared").rglob("manifest.parquet")))
    blocks = [load_file(path) for path in (work.folder / "prepared").rglob("*.safetensors")]
    # The names of the blocks follow from the path of the data set, so their order is arbitrary.
    tensors = [{name: sha256([array.tobytes()]) for name, array in sorted(block.items())} for block in blocks]
    return {
        "n_blocks": len(blocks),
        "n_rows": table.num_rows,
        "blocks": sorted(tensors, key=lambda block: sorted(block.values())),
        "columns": {
            name: sha256(repr(value).encode() for value in table[name].to_pylist())
            for name in table.column_names
            if name not in MANIFEST_EXCLUDED
        },
    }


def search(work: Workspace) -> list[dict[str, Any]]:
    """Return the results of searching for a person in drawn films, after ingest and index."""
    hits = [keep(hit, HITS) for hit in json.loads(work.run("ingest", "index", "search"))]
    return [{**hit, "video": Path(hit["video"]).name} for hit in hits]


def cluster(work: Workspace) -> list[list[str]]:
    """Return the rows of the printed table of groups of the drawn films' tracks."""
    lines = work.run("ingest", "index", "cluster").splitlines()
    return [line.split() for line in lines if re.match(r" *\d+ +\d+ +\d+ +\d+\.\d+", line)]


def table(work: Workspace) -> dict[str, dict[str, Any]]:
    """Return the cells with a number in the CSV file of a table at scale=smoke."""
    work.run("table")
    (path,) = (work.folder / "tables").glob("*.csv")
    with path.open(newline="", encoding="utf-8") as file:
        # The first three columns are row, column and metric.
        cells = {", ".join(list(line.values())[:3]): keep(line, TABLE_COLUMNS) for line in csv.DictReader(file)}
    return {name: cell for name, cell in cells.items() if any(cell.values())}


JOBS: dict[str, Callable[[Workspace], Any]] = {
    "demo": demo,
    "train": train,
    "prepare": prepare,
    "search": search,
    "cluster": cluster,
    "table": table,
}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the metrics of a training or an evaluation, and the curves of each stage."""
    record = keep(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), METRICS)
    for name in ("comparison.json", "baselines.json"):
        if (folder / name).is_file():
            record["baselines"] = json.loads((folder / name).read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*/metrics.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        names = [name for name in lines[0] if name.startswith(("train/loss", "val"))]
        record[path.parent.name] = {name: [line[name] for line in lines if line[name]] for name in names}
    return record


def keep(record: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the items of a record with a key, or a new name of the key, among the names."""
    return {key: value for key, value in record.items() if RENAMED.get(key, key) in names}


def sha256(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of some bytes, with the length before each part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def flatten(record: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of a record as JSON, with its path of keys by their new names."""
    if isinstance(record, dict | list) and record:
        pairs: Iterable[tuple[Any, Any]] = record.items() if isinstance(record, dict) else enumerate(record)
        for key, value in pairs:
            name = str(RENAMED.get(key, key))
            yield from flatten(value, f"{place} > {name}" if place else name)
    else:
        yield place, json.dumps(record, ensure_ascii=False)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return one line for each value that differs between two records."""
    old, new = dict(flatten(before)), dict(flatten(after))
    pairs = [(place, old.get(place, "absent"), new.get(place, "absent")) for place in {**old, **new}]
    return [f"{place}: {was} before, {now} now" for place, was, now in pairs if was != now]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="Record to write, or to compare with if it exists.")
    parser.add_argument("--only", default=",".join(JOBS), help="Jobs to run, separated by commas. Default: all.")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(JOBS):
        parser.error(f"--only: no such job: {', '.join(sorted(unknown))}; the jobs are {', '.join(JOBS)}")
    record = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder))
        work.draw_faces()
        work.draw_films()
        for name in names:
            start = time.monotonic()
            record[name] = JOBS[name](work)
            print(f"{name}: {len(dict(flatten(record[name])))} values, {time.monotonic() - start:.0f} s", flush=True)
    if not options.file.exists():
        options.file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {options.file}")
        return
    before = json.loads(options.file.read_text(encoding="utf-8"))
    found = differences({name: before[name] for name in names if name in before}, record)
    print("\n".join([*found, f"{len(found)} differences from {options.file}"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
