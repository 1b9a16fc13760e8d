"""Compare the covariance layer with other implementations: time, error and memory, in one run.

python scripts/benchmarks/benchmark_log_covariance.py [--out DIR] [--shared DIR] [--quick]

Prints and writes DIR/log_covariance.md, and draws DIR/log_covariance_time.svg and DIR/log_covariance_error.svg.
Needs the extra dev. Exits with 1 if a target is missed.
"""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import mpmath
import pyriemann
import spd_learn
import torch
from matplotlib.figure import Figure
from measure import Report, Times, benchmark_parser, heading, milliseconds, warm_allocator
from pyriemann.geometry.base import logm
from spd_learn.functional import matrix_log
from torch import Tensor

from facereel.functional import log_covariance

Pooling = Callable[[Tensor], Tensor]

EPS = 1e-3
# (clips, frames, features); 30 x 30 x 320 is a batch of the paper's network.
SIZES = ((32, 10, 128), (30, 30, 320), (16, 32, 512), (8, 200, 128), (4, 200, 512))
MAIN = SIZES[1]


def second_moment(frames: Tensor) -> Tensor:
    return frames.mT @ frames


def regularized(frames: Tensor) -> Tensor:
    return second_moment(frames) + EPS * torch.eye(frames.shape[-1], dtype=frames.dtype)


def through_eigh(frames: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(regularized(frames))
    return (vectors * values.log()[:, None]) @ vectors.mT


def through_spd_learn(frames: Tensor) -> Tensor:
    result: Tensor = matrix_log.apply(regularized(frames))
    return result


def through_pyriemann(frames: Tensor) -> Tensor:
    result: Tensor = logm(regularized(frames))
    return result


def facereel(frames: Tensor) -> Tensor:
    return log_covariance(frames, eps=EPS)


def scale_free(frames: Tensor) -> Tensor:
    return log_covariance(frames, eps=0.1, normalize=True, unit_frames=True, length=30.0)


def polynomial(frames: Tensor) -> Tensor:
    return log_covariance(frames, eps=0.1, normalize=True, unit_frames=True, length=30.0, method="polynomial")


def supplement(frames: Tensor) -> Tensor:
    return log_covariance(frames, eps=EPS, method="supplement")


FACEREEL, SCALE_FREE, FLOOR = "facereel", "facereel, scale-free", "D'D alone"
POLYNOMIAL = "the same by polynomials"
OTHERS: dict[str, Pooling] = {
    "supplement's form": supplement,
    "autograd through eigh": through_eigh,
    "spd-learn": through_spd_learn,
    "pyriemann": through_pyriemann,
}
OURS: dict[str, Pooling] = {FACEREEL: facereel, SCALE_FREE: scale_free, POLYNOMIAL: polynomial}
POOLINGS: dict[str, Pooling] = {**OURS, FLOOR: second_moment, **OTHERS}


def fits(name: str, n_frames: int, dim: int) -> bool:
    return n_frames <= dim or name != "supplement's form"


def step(pool: Pooling, frames: Tensor, grad: Tensor) -> Callable[[], None]:
    """Return a function that runs forward and backward; all poolings get the same tensors."""

    def call() -> None:
        frames.grad = None
        torch.autograd.backward(pool(frames), grad)

    return call


def times(n_clips: int, n_frames: int, dim: int, rounds: int) -> Times:
    torch.manual_seed(0)
    frames, grad = torch.randn(n_clips, n_frames, dim, requires_grad=True), torch.randn(n_clips, dim, dim)
    calls = {name: step(pool, frames, grad) for name, pool in POOLINGS.items() if fits(name, n_frames, dim)}
    return milliseconds(calls, rounds=rounds)


def gradient(pool: Pooling, frames: Tensor, weight: Tensor) -> Tensor:
    x = frames.clone().requires_grad_()
    torch.autograd.backward((pool(x) * weight.to(x.dtype)).sum())
    assert x.grad is not None
    return x.grad.double()


def relative_error(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def clips_of_interest(n_frames: int, dim: int) -> dict[str, Tensor]:
    """Return float64 clips (2, T, D) with gradients that are hard to compute, by name."""
    noise, base = torch.randn(2, n_frames, dim).double(), torch.randn(2, 1, dim).double()
    repeated = noise.clone()
    repeated[:, 1] = repeated[:, 0]
    orthogonal = torch.linalg.qr(noise.mT).Q.mT if n_frames <= dim else torch.linalg.qr(noise).Q
    return {
        "random": noise,
        "near-copies, 1e-4 apart": base + 1e-4 * noise,
        "static": base.expand_as(noise).clone(),
        "one frame": base,
        "one frame twice": repeated,
        "equal singular values": orthogonal.contiguous(),
        "centered": noise - noise.mean(dim=1, keepdim=True),
        "zeros": torch.zeros_like(noise),
        "random x 1e-6": 1e-6 * noise,
        "random x 1e4": 1e4 * noise,
    }


def real_static_clip(shared: Path) -> Tensor | None:
    """Return five identical frames of YouTube Faces as gray 8 x 8, (1, 5, 64) float64; None without the data."""
    paths = sorted((shared / "data/youtube_faces/frame_images_DB/Carlos_Iturgaitz/3").glob("*.jpg"))
    if not paths:
        return None
    images = [cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (8, 8)) for path in paths]
    return torch.stack([torch.from_numpy(p).double().flatten() / 255 for p in images])[None]


def exact_slope(clip: Tensor, direction: Tensor, weight: Tensor) -> float:
    """Return d/dh of sum(weight * log(D'D + eps I)), D = clip + h direction, by a central difference in 80 digits."""

    def value(h: mpmath.mpf) -> mpmath.mpf:
        d = mpmath.matrix(clip.tolist()) + h * mpmath.matrix(direction.tolist())
        values, vectors = mpmath.eigsy(d.T * d + mpmath.mpf(EPS) * mpmath.eye(clip.shape[1]))
        logarithm = vectors * mpmath.diag([mpmath.log(v) for v in values]) * vectors.T
        return mpmath.fsum(w * y for w, y in zip(weight.flatten().tolist(), logarithm, strict=True))

    with mpmath.workdps(80):
        h = mpmath.mpf(10) ** -25
        return float((value(h) - value(-h)) / (2 * h))


def slope_error(clip: Tensor, weight: Tensor) -> float:
    """Return the relative error of facereel's float64 gradient along a random direction of the clip's size."""
    direction = torch.randn_like(clip) * (float(clip.abs().max()) or 1.0)
    exact = exact_slope(clip, direction, weight)
    found = float((gradient(facereel, clip[None], weight) * direction).sum())
    return abs(found - exact) / abs(exact) if exact else abs(found)


def peak_matrices(n_clips: int, n_frames: int, dim: int) -> float:
    """Return the peak memory of forward and backward beyond the input, in D x D float32 matrices per clip."""
    frames, grad = torch.randn(n_clips, n_frames, dim, requires_grad=True), torch.randn(n_clips, dim, dim)
    step(facereel, frames, grad)()
    frames.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.backward(facereel(frames), grad)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held, peak = 0, 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return (peak + grad.numel() * grad.element_size()) / (4 * n_clips * dim**2)


def errors_by_gap() -> tuple[list[float], dict[str, list[float]]]:
    """Return relative gaps of the two largest singular values, and the float32 gradient errors at each gap."""
    gaps = [10.0**-k for k in range(9)]
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(4, 10, 10).double()).Q
    v = torch.linalg.qr(torch.randn(4, 64, 10).double()).Q
    weight = torch.randn(64, 64)
    errors: dict[str, list[float]] = {name: [] for name in (FACEREEL, *OTHERS)}
    for gap in gaps:
        values = torch.linspace(1, 3, 10).double()
        values[-1] = values[-2] * (1 + gap)
        frames = ((u * values) @ v.mT).float()
        exact = gradient(facereel, frames.double(), weight)
        for name, found in errors.items():
            found.append(relative_error(gradient(POOLINGS[name], frames, weight), exact))
    return gaps, errors


def draw_errors(path: Path) -> None:
    gaps, errors = errors_by_gap()
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, values in errors.items():
        axes.loglog(gaps, [v if math.isfinite(v) else math.nan for v in values], marker="o", ms=3, label=name)
    axes.invert_xaxis()
    axes.set_xlabel("relative gap between two singular values")
    axes.set_ylabel("relative gradient error, float32\n(no point: not finite)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def draw_times(path: Path, rounds: int) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_frames, by_features = figure.subplots(1, 2, sharey=True)
    for axes, label, sizes in (
        (by_frames, "frames (16 clips, 128 features)", [(16, t, 128) for t in (4, 8, 16, 32, 64, 128, 256)]),
        (by_features, "features (16 clips, 30 frames)", [(16, 30, d) for d in (32, 64, 128, 256, 512)]),
    ):
        measured = [times(*size, rounds=rounds) for size in sizes]
        place = 1 if axes is by_frames else 2
        for name in POOLINGS:
            points = [(size[place], m.median(name)) for size, m in zip(sizes, measured, strict=True) if name in m]
            style = {"color": "black", "linestyle": "--"} if name == FLOOR else {"marker": "o", "ms": 3}
            axes.loglog(*zip(*points, strict=True), label=name, **style)
        axes.set_xlabel(label)
        axes.set_xticks([size[place] for size in sizes], [str(size[place]) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    by_frames.set_ylabel("forward and backward, ms")
    by_frames.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="where data/youtube_faces is")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no plots")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report()
    say, target = report.say, report.target

    warm_allocator()
    say("# The covariance layer, measured")
    say()
    say("Written by `python scripts/benchmarks/benchmark_log_covariance.py`.")
    say(f"{heading()}; spd-learn {spd_learn.__version__}; pyriemann {pyriemann.__version__}.")
    say("Forward and backward in float32 on the same random tensors: medians in ms (in brackets relative to facereel).")
    say()
    names = list(POOLINGS)
    say("| clips, frames, features | " + " | ".join(names) + " |")
    say("|---|" + "---:|" * len(names))
    found = {}
    for size in SIZES:
        result = found[size] = times(*size, rounds=3 if arguments.quick else 9)
        cells = [f"{result.median(n):.1f} ({result.ratio(n, FACEREEL):.2f})" if n in result else "-" for n in names]
        cells[0] = f"**{result.median(FACEREEL):.1f}**"
        say(f"| {', '.join(map(str, size))} | " + " | ".join(cells) + " |")
    say()
    ratios = {name: found[MAIN].ratio(name, FACEREEL) for name in POOLINGS}
    for name, factor in (("supplement's form", 10), ("autograd through eigh", 20)):
        of_floor = f"D'D alone would reach {ratios[name] / ratios[FLOOR]:.1f} x"
        target(f"at {MAIN} {factor} x as fast as {name}: {ratios[name]:.1f} x; {of_floor}", ratios[name] >= factor)
    for name in (FACEREEL, SCALE_FREE):
        factor_of_floor = found[MAIN].ratio(name, FLOOR)
        met = factor_of_floor <= 1.5
        target(f"at {MAIN} {name} at most 1.5 x the time of D'D alone: {factor_of_floor:.2f} x", met)
    for size, result in found.items():
        ratio = max(result.ratio(FACEREEL, name) for name in OTHERS if name in result)
        target(f"at {size} at most 1.05 x the time of the fastest other: {ratio:.2f} x", ratio <= 1.05)
        of_released = result.ratio(SCALE_FREE, FACEREEL)
        target(
            f"at {size} scale-free at most 1.05 x the time of the released form: {of_released:.2f} x",
            of_released <= 1.05,
        )
    peak = peak_matrices(*MAIN)
    target(f"at {MAIN} a peak of at most 4 D x D matrices per clip, with the incoming gradient: {peak:.2f}", peak <= 4)
    say()
    say("Relative error of the gradient. float64: facereel's gradient along a random direction, compared with a")
    say("central difference in 80 digits; the worse of clips of 4 x 6 and 8 x 5 (of the real clip, 16 pixels).")
    say("float32: the whole gradient, compared with facereel's in float64, on clips of 30 x 320; for facereel also")
    say("40 x 32, with more frames than features.")
    say("Scale-free is pooling=log_covariance: frames of length 1, their mean moment, a result of one length.")
    say("The other forms divide by differences that are zero or rounding errors. Where their error is 1e-03 or more,")
    say("another processor or library may give a value that is not finite, and the reverse.")
    say()
    columns = [*OURS, *OTHERS]
    say(f"| clips | {FACEREEL}, float64 | {FACEREEL}, 40 x 32 | " + " | ".join(columns) + " |")
    say("|---|---:|" + "---:|" * (1 + len(columns)))
    torch.manual_seed(0)
    wide, tall = clips_of_interest(30, 320), clips_of_interest(40, 32)
    small = [clips_of_interest(4, 6), clips_of_interest(8, 5)]
    rows: dict[str, tuple[Tensor, Tensor | None, list[Tensor]]]
    rows = {name: (wide[name], tall[name], [clips[name][0] for clips in small]) for name in wide}
    static = real_static_clip(arguments.shared)
    if static is not None:
        rows["static, real"] = (static, None, [static[0, :, :16]])
    for name, (clips, tall_clips, small_clips) in rows.items():
        exact_error = max(slope_error(c, torch.randn(c.shape[1], c.shape[1])) for c in small_clips)
        cells = [f"{exact_error:.0e}"]
        if not exact_error <= 1e-9:
            report.missed.append(f"{name}: float64 gradient off by {exact_error:.1e}")
        for pool, chosen in ((facereel, tall_clips), *((POOLINGS[n], clips) for n in columns)):
            if chosen is None:
                cells.append("-")
                continue
            narrow, weight = chosen.float(), torch.randn(chosen.shape[2], chosen.shape[2])
            reference = scale_free if pool in (scale_free, polynomial) else facereel
            exact, single = gradient(reference, narrow.double(), weight), gradient(pool, narrow, weight)
            error = relative_error(single, exact) if exact.any() else float(single.norm())
            cells.append(f"{error:.0e}" if math.isfinite(error) else "not finite")
            limit = 1e-3 if "near" in name else 1e-4
            if pool in OURS.values() and not error <= limit:
                report.missed.append(f"{name}: float32 error {error:.1e} above {limit}")
        say(f"| {name} | " + " | ".join(cells) + " |")
    say()
    padded = torch.randn(1, 4, 6, requires_grad=True)
    pooled = log_covariance(padded, torch.zeros(1, 4, dtype=torch.bool), eps=EPS)
    torch.autograd.backward(pooled.sum())
    assert padded.grad is not None
    is_floor = bool(torch.allclose(pooled, math.log(EPS) * torch.eye(6)) and not padded.grad.any())
    target("a fully masked clip gives log(eps) I and a zero gradient", is_floor)
    if not arguments.quick:
        draw_errors(arguments.out / "log_covariance_error.svg")
        draw_times(arguments.out / "log_covariance_time.svg", rounds=3)
        report.write(arguments.out / "log_covariance.md")
    report.finish()


if __name__ == "__main__":
    main()
