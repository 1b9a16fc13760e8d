"""Benchmark encoders on one CPU core: eager PyTorch, with folded batch norms, and onnxruntime on the same network.

python scripts/benchmarks/benchmark_encoders.py [--rounds 9] [--encoders sface dlib] [--out FOLDER]

All calls alternate in one run, so that a busy machine slows all of them. Times are the CPU time of the process, which
other processes disturb less than the time on the clock; both are printed. Needs the extras pretrained and export.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Report, benchmark_parser, heading
from torch import Tensor

from facereel.export.to_onnx import quiet_exporter
from facereel.models import VideoHasher
from facereel.models.encoders.onnx_network import OnnxSession, inspect_graph
from facereel.models.pretrained import pretrained_hasher

BATCHES = (1, 5, 32)
TARGET = 45.0  # crops per second of SFace


class Sample(NamedTuple):
    """Milliseconds for one crop."""

    cpu: float
    clock: float


def onnx_session(model: VideoHasher) -> OnnxSession:
    """Return the same network in float32 in onnxruntime, with a free number of images."""
    size = model.preprocess.size
    with quiet_exporter():
        program: Any = torch.onnx.export(
            model.encoder.eval(),
            (torch.zeros(2, 3, size, size),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    return OnnxSession(inspect_graph(program.model_proto.SerializeToString()), size)


def calls(name: str) -> tuple[int, dict[str, Callable[[Tensor], Any]]]:
    """Return the side of the images, and the ways to encode preprocessed ones."""
    eager, folded = (pretrained_hasher(encoder=name) for _ in range(2))
    session = onnx_session(eager)
    folded.prepare_inference()
    run: dict[str, Callable[[Tensor], Any]] = {
        "eager": lambda x: eager.encoder(x),
        "folded, in parts": lambda x: folded._encode(x),
        "onnxruntime": lambda x: session.run(np.ascontiguousarray(x.numpy())),
    }
    return eager.preprocess.size, run


@torch.inference_mode()
def measure(run: Callable[[Tensor], Any], images: Tensor, at_least: int = 5) -> Sample:
    """Time one call, or several for small batches."""
    repeats = max(1, at_least // len(images))
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run(images)
    n = repeats * len(images) / 1000
    return Sample((time.process_time() - cpu) / n, (time.perf_counter() - clock) / n)


@torch.no_grad()
def check(name: str, ways: dict[str, Callable[[Tensor], Any]], images: Tensor) -> None:
    """Check that all ways give the same features; a first round, which is not timed."""
    expected = ways["eager"](images)
    for way, run in ways.items():
        difference = (torch.as_tensor(run(images)) - expected).abs().max() / expected.abs().max()
        assert difference < 1e-3, f"{name} {way} differs by {difference:.2g}"


def row(name: str, batch: int, way: str, samples: list[Sample]) -> str:
    cpu = sorted(sample.cpu for sample in samples)
    clock = statistics.median(sample.clock for sample in samples)
    median = statistics.median(cpu)
    span = f"{cpu[0]:.1f} to {cpu[-1]:.1f}"
    return f"| {name} | {batch} | {way} | {median:.1f} | {span} | {1000 / median:.1f} | {clock:.1f} |"


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--encoders", nargs="+", default=["sface", "dlib"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # which the session of onnxruntime follows
    report = Report()
    report.say("# Encoders on one CPU core\n\nAfter this page you know how long an encoder takes for a crop.\n")
    report.say("    python scripts/benchmarks/benchmark_encoders.py\n")
    report.say(f"{heading()}; float32; medians of {arguments.rounds} alternating rounds.\n")
    report.say(
        "| encoder | crops at once | run by | CPU time per crop, ms | range, ms | crops/s of CPU time | clock, ms |"
    )
    report.say("|---|---:|---|---:|---:|---:|---:|")
    medians: dict[tuple[str, int, str], float] = {}
    for name in arguments.encoders:
        side, ways = calls(name)
        for batch in BATCHES:
            images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
            samples: dict[str, list[Sample]] = {way: [] for way in ways}
            check(name, ways, images)
            for _ in range(arguments.rounds):
                for way, run in ways.items():
                    samples[way].append(measure(run, images))
            for way, its in samples.items():
                medians[name, batch, way] = statistics.median(sample.cpu for sample in its)
                report.say(row(name, batch, way, its))
    report.say()
    for (name, batch, way), ms in medians.items():
        if way != "folded, in parts":
            continue
        if name == "sface" and batch == 5:
            speed = f"{1000 / ms:.1f} crops/s of CPU time, at least {TARGET:g}"
            report.target(f"sface, {batch} at once: {speed}", 1000 / ms >= TARGET)
        other = medians[name, batch, "onnxruntime"]
        report.target(f"{name}, {batch} at once: {ms:.1f} ms, onnxruntime {other:.1f} ms, never slower", ms <= other)
    report.write(arguments.out / "encoders.md")
    report.finish()


if __name__ == "__main__":
    main()
