"""Measure everything that a GPU is for: training, pooling, mAP, search, and finding faces; in under nine minutes.

python scripts/benchmarks/gpu.py [--device cuda] [--out DIR]

Prints and writes DIR/gpu.md and DIR/gpu.json after each section, so that a killed run keeps what it measured. If a
section fails, that is reported, and the next one runs. `--device cpu --quick` runs all of it on a CPU, at sizes at
which no number means anything. Needs the extras dev, pretrained, and cpu or gpu. Exits with 1 if a section fails or, on
a GPU, a target is missed.
"""

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from benchmark_ingest import timed
from benchmark_loader import draw_data_set
from benchmark_log_covariance import EPS, FLOOR, MAIN, OURS, POOLINGS, SIZES, fits, step
from benchmark_map import problem
from hydra import compose, initialize_config_dir
from measure import Report, benchmark_parser, heading, milliseconds
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from facereel.cli.main import main as facereel
from facereel.config.compose import config_dir
from facereel.data import FaceSet, open_prepared
from facereel.errors import UserError
from facereel.evaluation.protocols import ClosedSet
from facereel.functional import log_covariance, mean_average_precision
from facereel.models import CasiaEncoder, default_encoder, pretrained_hasher
from facereel.retrieval.backends.code_part import CodePart
from facereel.retrieval.backends.faiss import has_gpu
from facereel.retrieval.build_index import IndexOptions
from facereel.retrieval.code_index import CodeIndex
from facereel.retrieval.index_videos import index_videos, settings_for, tracks_folder
from facereel.storage.files import atomic_write
from facereel.system.device import choose_device
from facereel.system.environment import commit, hardware, versions
from facereel.training.pipeline import build_hasher, quieten_lightning
from facereel.training.stage import build_parts, build_trainer

MINUTES = 9
Rows = list[dict[str, Any]]

# Overrides of configs/train.yaml; batches are those of the released code.
CASES = {
    "float32, no augmentation": ["augment=none"],
    "bf16, no augmentation": ["augment=none", "trainer.precision=bf16-mixed"],
    "bf16, augmented by workers": ["augment=images", "trainer.precision=bf16-mixed"],
    "bf16, augmented on the device": ["augment=images", "trainer.precision=bf16-mixed", "augment.runs_on=device"],
}
SUPPLEMENT = "supplement's form"
LEAST_BUSY = 0.9
MOST_OF_FLOOR = 2.0
LEAST_SPEED = 300.0


@dataclass
class Benchmark:
    """The device, the sizes, and what was measured."""

    device: torch.device
    quick: bool
    report: Report = field(default_factory=Report)

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def finished(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that calls and waits."""

        def run() -> Any:
            result = call()
            self.wait()
            return result

        return run

    def target(self, text: str, met: bool) -> None:
        """Report a target, which is one of a GPU."""
        if self.device.type == "cuda":
            self.report.target(text, met)

    @property
    def activities(self) -> list[ProfilerActivity]:
        """What a profile contains."""
        return [ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU]


class Window(Callback):
    """Callback that times steps after a warm-up, and then profiles as many."""

    def __init__(self, benchmark: Benchmark, warm_up: int, steps: int) -> None:
        self.benchmark, self.warm_up, self.steps = benchmark, warm_up, steps
        self.n_images, self.seconds, self.busy_s, self.profiled_s = 0, 0.0, 0.0, 0.0
        self.table = ""
        self._started = 0.0
        self._n_done = 0
        self._profile = profile(activities=benchmark.activities)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start and stop the clock, and the profile."""
        self._n_done += 1
        if self._n_done not in (self.warm_up, self.warm_up + self.steps, self.warm_up + 2 * self.steps):
            return
        self.benchmark.wait()
        now = time.perf_counter()
        self.n_images = len(batch.stills) + int(batch.mask.sum())
        if self._n_done == self.warm_up + self.steps:
            self.seconds = now - self._started
            self._profile.start()
        elif self._n_done > self.warm_up:
            self.profiled_s = now - self._started
            self._profile.stop()
            averages = self._profile.key_averages()
            kind, time_of = DeviceType.CPU, "self_cpu_time_total"
            if self.benchmark.device.type == "cuda":
                kind, time_of = DeviceType.CUDA, "self_device_time_total"
            events = [event for event in averages if event.device_type == kind and not event.is_user_annotation]
            self.busy_s = sum(getattr(event, time_of) for event in events) / 1e6
            self.table = averages.table(sort_by=time_of, row_limit=10, max_name_column_width=50)
        self._started = time.perf_counter()


def training(benchmark: Benchmark) -> Rows:
    """Steps of stage 1 of experiment=dhh_released with the paper's encoder, from the cache of crops to the gradient.

    The share is that of the time of profiled steps in which the device ran kernels. The bare encoder is its forward and
    backward on as many images, without loading, pooling and loss. The profile is of the first case.
    """
    sizes = (3, 2, 3, 2) if benchmark.quick else (24, 6, 30, 6)
    steps, width = (2, 0.125) if benchmark.quick else (20, 1.0)
    small = ["batch.identities_per_batch=2", "batch.n_clips=1", "batch.n_stills=1"] if benchmark.quick else []
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        faces = cached_faces(Path(folder), *sizes)
        for name, overrides in CASES.items():
            window = train(benchmark, faces, [*overrides, *small, f"encoder.width={width}"], steps)
            bf16 = "trainer.precision=bf16-mixed" in overrides
            bare = milliseconds({"bare": benchmark.finished(encode(benchmark, window.n_images, width, bf16))}, rounds=1)
            row = {
                "case": name,
                "images a step": window.n_images,
                "step, ms": 1000 * window.seconds / steps,
                "images a second": steps * window.n_images / window.seconds,
                "busy share": window.busy_s / window.profiled_s,
                "step over bare encoder": 1000 * window.seconds / steps / bare.median("bare"),
            }
            if not rows:
                benchmark.report.say(f"```\n{window.table}\n```\n")
            rows.append(row)
    busy = rows[-1]["busy share"]
    benchmark.target(f"{rows[-1]['case']}: busy at least {LEAST_BUSY:.0%}: {busy:.0%}", busy >= LEAST_BUSY)
    return rows


def cached_faces(folder: Path, *sizes: int) -> FaceSet:
    """Return drawn faces in a cache of crops; each clip is there many times, so that an epoch has many steps."""
    draw_data_set(folder / "faces", *sizes)
    facereel(["prepare", "folder", str(folder / "faces"), str(folder / "out"), "--detector", "none"])
    faces = open_prepared(folder / "out").face_set()
    names = ((clip, f"{clip.source}/{i}") for i in range(20) for clip in faces.clips)
    return replace(faces, clips=[replace(clip, source=name, key=name) for clip, name in names])


def train(benchmark: Benchmark, faces: FaceSet, overrides: list[str], steps: int) -> Window:
    """Return the times of a short training."""
    n_workers = 0 if benchmark.quick else min(8, len(os.sched_getaffinity(0)))
    options = [f"trainer.accelerator={benchmark.device.type}", f"trainer.num_workers={n_workers}", "data=folder"]
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        cfg = compose("train", ["experiment=dhh_released", *options, *overrides, "data.root=none", "out=none"])
    torch.manual_seed(0)
    module, data = build_parts(cfg, 0, cfg.stages.stage1, build_hasher(cfg), faces, ClosedSet(0.3, 0.0).split(faces, 0))
    module.hasher.lay_out(torch.channels_last)
    window = Window(benchmark, warm_up=max(1, steps // 4), steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            cfg,
            default_root_dir=Path(folder),
            max_steps=window.warm_up + 2 * steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[window],
        )
        trainer.fit(module, datamodule=data)
    return window


def encode(benchmark: Benchmark, n_images: int, width: float, bf16: bool) -> Callable[[], Any]:
    """Return forward and backward of the bare encoder."""
    encoder = CasiaEncoder(width=width).to(benchmark.device).to(memory_format=torch.channels_last)
    images = torch.rand(n_images, 3, 64, 64, device=benchmark.device).contiguous(memory_format=torch.channels_last)

    def call() -> None:
        with torch.autocast(benchmark.device.type, torch.bfloat16, enabled=bf16):
            loss = encoder(images).float().square().mean()
        loss.backward()
        encoder.zero_grad()

    return call


def pooling(benchmark: Benchmark) -> Rows:
    """Forward and backward of log-covariance by method, in ms, and of D'D alone; in brackets relative to D'D."""
    rows: Rows = []
    layers: dict[str, Callable[[Tensor], Tensor]] = {FLOOR: POOLINGS[FLOOR], **OURS}
    layers |= {"by eigh": partial(log_covariance, eps=EPS, method="eigh"), SUPPLEMENT: POOLINGS[SUPPLEMENT]}
    for n_clips, n_frames, dim in ((2, 4, 8), (2, 9, 8)) if benchmark.quick else SIZES:
        frames = torch.randn(n_clips, n_frames, dim, device=benchmark.device, requires_grad=True)
        grad = torch.randn(n_clips, dim, dim, device=benchmark.device)
        fitting = {name: layer for name, layer in layers.items() if fits(name, n_frames, dim)}
        calls = {name: benchmark.finished(step(layer, frames, grad)) for name, layer in fitting.items()}
        found = milliseconds(calls, rounds=1 if benchmark.quick else 3)
        cells = {name: f"{found.median(name):.3g} ({found.ratio(name, FLOOR):.2f})" for name in found}
        rows.append({"clips, frames, features": f"{n_clips}, {n_frames}, {dim}", **dict.fromkeys(layers, "-"), **cells})
        for name in OURS if (n_clips, n_frames, dim) == MAIN else ():
            ratio = found.ratio(name, FLOOR)
            benchmark.target(f"{name} at most {MOST_OF_FLOOR:g} x D'D: {ratio:.2f} x", ratio <= MOST_OF_FLOOR)
    return rows


def ranking(benchmark: Benchmark) -> Rows:
    """mAP over whole rankings of codes of 64 bits on the device."""
    rows: Rows = []
    for n_queries, n_gallery in ((20, 300),) if benchmark.quick else ((1000, 1_000_000), (10_000, 1_000_000)):
        codes = [tensor.to(benchmark.device) for tensor in problem(n_queries, n_gallery)]
        value, seconds = 0.0, []
        for _ in range(2):
            timing, value = timed(benchmark.finished(partial(mean_average_precision, *codes)))
            seconds.append(timing.wall)
        rows.append({"queries": n_queries, "gallery": n_gallery, "seconds": min(seconds), "mAP": value})
    return rows


def searching(benchmark: Benchmark) -> Rows:
    """Search for the nearest 10 of random codes of 256 bits, in a flat index; on a GPU with faiss-gpu only."""
    rows: Rows = []
    queries = torch.rand(64, 256) > 0.5
    for n_codes in (1000,) if benchmark.quick else (10**6, 10**7, 10**8):
        codes = np.frombuffer(np.random.default_rng(0).bytes(32 * n_codes), np.uint8).reshape(n_codes, 32)
        index = CodeIndex.of_parts(256, [CodePart(np.arange(n_codes), codes)])
        first, _ = timed(partial(index.search, queries[:1], 10))
        again, _ = timed(partial(index.search, queries, 10))
        rows.append(
            {
                "codes": n_codes,
                "FAISS on": "GPU" if has_gpu() else "CPU",
                "first search, s": first.wall,
                "ms a query of 64": 1000 * again.wall / 64,
            }
        )
        del index, codes
        gc.collect()
    return rows


def ingesting(benchmark: Benchmark) -> Rows:
    """From a film of two drawn people, 640 x 360 at 25 frames a second, to an index with codes."""
    seconds = 2.0 if benchmark.quick else 120.0
    model, options = pretrained_hasher(encoder=default_encoder()), IndexOptions(device=benchmark.device)
    with tempfile.TemporaryDirectory() as folder:
        film, out = draw_film(Path(folder) / "film.mp4", seconds), Path(folder) / "index"
        settings = settings_for(out, tracks_folder(out))
        timing, report = timed(benchmark.finished(lambda: index_videos([film], out, model, settings, options)))
    speed = seconds / timing.wall
    benchmark.target(f"at least {LEAST_SPEED:g} x real time: {speed:.1f} x", speed >= LEAST_SPEED)
    row = {"detector": settings.detector, "film, s": seconds, "tracks": report.index.n_tracks}
    return [{**row, "seconds": timing.wall, "processor, s": timing.processor, "x real time": speed}]


def draw_film(path: Path, seconds: float) -> Path:
    """Write a film that repeats 8 seconds of drawn people."""
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    from drawn_people import PEOPLE, frames, write_film

    people = frames(*list(PEOPLE)[:2], seconds=min(8.0, seconds), fps=25)
    drawn = [cv2.resize(image, (480, 360)) for image in people]
    wide = [cv2.copyMakeBorder(image, 0, 0, 80, 80, cv2.BORDER_REPLICATE) for image in drawn]
    return write_film(path, (wide[i % len(wide)] for i in range(round(25 * seconds))), 25)


SECTIONS = {
    "A training step": training,
    "Log-covariance": pooling,
    "Mean average precision": ranking,
    "Flat search": searching,
    "From film to codes": ingesting,
}


def driver() -> str | None:
    """Return the version of the NVIDIA driver, or None if there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, IndexError, subprocess.CalledProcessError):
        return None


def peak_mb(device: torch.device) -> float:
    """Return the largest memory in use on a GPU since the last reset, or of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def say_rows(report: Report, rows: Rows) -> None:
    """Report a table with the keys of the first row as its head."""
    report.say(f"| {' | '.join(rows[0])} |")
    report.say("|---" + "|---:" * (len(rows[0]) - 1) + "|")
    for row in rows:
        report.say(f"| {' | '.join(f'{x:,.4g}' if isinstance(x, float) else f'{x}' for x in row.values())} |")
    report.say()


def main(arguments: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test the script")
    options = parser.parse_args(arguments)
    try:
        benchmark = Benchmark(choose_device(options.device), options.quick)
    except UserError as error:
        parser.error(str(error))
    quieten_lightning()
    report, started = benchmark.report, time.perf_counter()
    command = f"python scripts/benchmarks/gpu.py --device {options.device}{' --quick' if options.quick else ''}"
    found: dict[str, Any] = {
        "command": command,
        "hardware": hardware(),
        "driver": driver(),
        "cuda": torch.version.cuda if benchmark.device.type == "cuda" else None,
        "versions": versions(),
        "commit": commit(),
        "sections": {},
    }
    report.say("# Measured on a GPU" if benchmark.device.type == "cuda" else "# The benchmark of the GPU, on a CPU")
    report.say()
    report.say(f"{heading()}; driver {found['driver']}; CUDA {found['cuda']}. `{command}`")
    report.say()
    if options.quick:
        report.say("**With --quick: no number here means anything.**")
        report.say()
    for name, section in SECTIONS.items():
        report.say(f"## {name}\n")
        report.say("\n".join(line.strip() for line in (section.__doc__ or "").splitlines()).strip() + "\n")
        if benchmark.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        try:
            rows = section(benchmark)
            say_rows(report, rows)
        except Exception as error:  # the time on a GPU is short: the other sections run
            rows = []
            report.target(f"{name} runs: {type(error).__name__}: {error}", False)
        measured = {"rows": rows, "seconds": time.perf_counter() - began, "peak_mb": peak_mb(benchmark.device)}
        found["sections"][name] = measured
        report.say(f"{measured['seconds']:.0f} s; peak memory {measured['peak_mb']:,.0f} MB.\n")
        report.write(options.out / "gpu.md")
        with atomic_write(options.out / "gpu.json") as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    minutes = (time.perf_counter() - started) / 60
    benchmark.target(f"all of it in at most {MINUTES} minutes: {minutes:.1f}", minutes <= MINUTES)
    report.write(options.out / "gpu.md")
    report.finish()


if __name__ == "__main__":
    main()
