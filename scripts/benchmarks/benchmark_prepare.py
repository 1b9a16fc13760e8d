"""Measure preparing and opening a data set of the size of YouTube Faces: seconds and memory of each step.

python scripts/benchmarks/benchmark_prepare.py [--tree DIR] [--out DIR] [--frames N]

Draws a tree in the layout of YouTube Faces: 1,595 people, 3,425 videos, 620,000 frames that are hard links to 48 files.
Prepares it without a detector, prepares it again, and opens it for training, each step in a new process. Prints and
writes DIR/prepare.md. Exits with 1 if a target is missed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from measure import Report, benchmark_parser, heading

# Number of people with 1, 2, ... 6 videos, as in the data set.
PEOPLE_BY_VIDEOS = (591, 471, 307, 167, 51, 8)
N_FILES = 48
MANIFEST_SECONDS, MANIFEST_GB, OPEN_SECONDS = 90, 1.5, 3

READ = """
from pathlib import Path; from facereel.data import Manifest, Skipped, read_youtube_faces
skipped = Skipped()
manifest = Manifest.from_rows(read_youtube_faces(r"{tree}", skipped))
manifest.save(Path(r"{out}") / "rows.parquet")
print(len(manifest), "rows,", dict(skipped.counts) or "nothing skipped")
"""
PREPARE = """
from facereel.cli.main import main
main(["prepare", "youtube_faces", r"{tree}", r"{out}", "--detector", "none"])
"""
OPEN = """
import time; import facereel.data, torch; started = time.perf_counter()
from facereel.data import open_prepared
from facereel.data import FaceDataset
faces = open_prepared(r"{out}").face_set()
items = FaceDataset(faces, [*faces.clips, *faces.stills], 10)
shapes = [tuple(items[i][0].shape) for i in (0, len(items) - 1)]
print(f"{{time.perf_counter() - started:.2f}}", faces.summary(), shapes)
"""


def draw_tree(root: Path, n_frames: int) -> None:
    """Draw the layout of frame_images_DB: images of 320 x 240, and video lengths that vary as in the original."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True)
    files = [root / f"{i}.jpg" for i in range(N_FILES)]
    for file in files:
        small = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)
        file.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    videos = [n for n, people in enumerate(PEOPLE_BY_VIDEOS, start=1) for _ in range(people)]
    shares = random.lognormal(size=sum(videos))
    lengths = iter(np.maximum(1, shares / shares.sum() * n_frames).round().astype(int).tolist())
    done = 0
    for person, n_videos in enumerate(videos):
        name = f"Person_{person}"
        lines = []
        for video in range(n_videos):
            folder = root / "frame_images_DB" / name / str(video)
            folder.mkdir(parents=True)
            for frame in range(1, next(lengths) + 1):
                os.link(files[done % N_FILES], folder / f"{video}.{frame}.jpg")
                lines.append(f"{name}\\{video}\\{video}.{frame}.jpg,0,{150 + frame % 20},120,90,90,0.0,1")
                done += 1
        (root / "frame_images_DB" / f"{name}.labeled_faces.txt").write_text("\n".join(lines) + "\n")


def run(code: str, **places: Path) -> tuple[float, float, str]:
    """Return seconds, peak memory in GB (including child processes) and printed lines of code in a new process."""
    started = time.perf_counter()
    measured = code.format(**places) + (
        "\nimport resource; print(max(resource.getrusage(who).ru_maxrss"
        " for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", measured], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    *lines, memory = done.stdout.strip().splitlines()
    printed = [line for line in lines if not line.startswith(("read ", "finding ", "note: ", "train on it: "))]
    return seconds, float(memory), "; ".join(printed)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tree", type=Path, help="folder for the tree, or with the tree of an earlier run")
    parser.add_argument("--frames", type=int, default=620_000)
    arguments = parser.parse_args()
    report = Report()
    report.say("# Preparing a data set of the size of YouTube Faces")
    report.say()
    report.say(f"{heading()}. `python scripts/benchmarks/benchmark_prepare.py`")
    report.say()
    folder = arguments.tree or Path(tempfile.mkdtemp())
    try:
        measure(folder, arguments.frames, report)
    finally:
        if arguments.tree is None:
            shutil.rmtree(folder)
    report.write(arguments.out / "prepare.md")
    report.finish()


def measure(folder: Path, n_frames: int, report: Report) -> None:
    tree, out = folder / "tree", folder / "out"
    if not tree.exists():
        draw_tree(tree, n_frames)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    report.say("| step | seconds | peak memory, GB | output |")
    report.say("|---|---:|---:|---|")
    results = {}
    for step, code in (
        ("read the tree and write its rows", READ),
        ("prepare, crops of 64 pixels by the boxes", PREPARE),
        ("prepare again", PREPARE),
        ("open for training, in a new process", OPEN),
    ):
        seconds, memory, printed = run(code, tree=tree, out=out)
        results[step] = seconds, memory, printed
        report.say(f"| {step} | {seconds:.1f} | {memory:.2f} | {printed.replace(str(folder), '')} |")
    report.say()
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 1e9
    report.say(f"The crops take {size:.1f} GB. Seconds and memory include starting Python and importing PyTorch.")
    report.say()
    for step in ("read the tree and write its rows", "prepare again"):
        seconds, memory, _ = results[step]
        met = seconds <= MANIFEST_SECONDS and memory <= MANIFEST_GB
        allowed = f"at most {MANIFEST_SECONDS} s and {MANIFEST_GB} GB"
        report.target(f"{step}: {allowed}: {seconds:.0f} s, {memory:.2f} GB", met)
    opened = float(results["open for training, in a new process"][2].split()[0])
    met = opened <= OPEN_SECONDS
    report.target(f"open and load the first two items, without imports: at most {OPEN_SECONDS} s: {opened:.2f} s", met)


if __name__ == "__main__":
    main()
