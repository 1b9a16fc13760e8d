"""Compare frames per second of the loader, from the cache of crops, with those of the paper's encoder.

python scripts/benchmarks/benchmark_loader.py [--out DIR] [--seconds 12]

Prepares drawn faces with `facereel prepare` at 64 pixels, then loads training batches with augmentation from the cache
and from plain JPEG files, and trains the encoder, in one run. Prints and writes DIR/loader.md. Exits with 1 if the
target is missed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import Report, benchmark_parser, heading
from torch.utils.data import DataLoader

from facereel.config.compose import config_dir
from facereel.data import Batch, Clip, FaceDataset, FaceSet, PKBatchSampler, Still, collate, open_prepared
from facereel.data.crops import CropSettings, crop_rows
from facereel.models import CasiaEncoder

N_PEOPLE, N_CLIPS, N_FRAMES, N_STILLS = 48, 6, 20, 6
N_WORKERS = 2
FACTOR = 10


def draw_data_set(
    root: Path, n_people: int = N_PEOPLE, n_clips: int = N_CLIPS, n_frames: int = N_FRAMES, n_stills: int = N_STILLS
) -> None:
    """Draw a folder of clips and stills: smooth noise in images of 320 x 240, the size of YouTube Faces."""
    random = np.random.default_rng(0)
    for person in range(n_people):
        folders = [root / "clips" / f"p{person}" / f"c{clip}" for clip in range(n_clips)]
        for folder in (*folders, root / "stills" / f"p{person}"):
            folder.mkdir(parents=True)
            for i in range(n_stills if folder.parent.name == "stills" else n_frames):
                small = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
                image = cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)
                (folder / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())


class PlainFiles:
    """The same images, each read from its own file at each access."""

    def __init__(self, faces: FaceSet) -> None:
        self.rows, self.settings = list(faces.rows), CropSettings(64, 1.2, None)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(crop_rows([self.rows[int(i)] for i in rows], self.settings).crops)


def loader(faces: FaceSet, augment: str | None, n_workers: int) -> DataLoader[Any]:
    """Return a loader of training batches of the default size."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        cfg = compose("train", ["data=folder", "batch.identities_per_batch=12", f"augment={augment or 'none'}"])
    transform = instantiate(cfg.augment.images) if cfg.augment.images else None
    items: list[Clip | Still] = [*faces.clips, *faces.stills]
    numbers = (cfg.batch.identities_per_batch, cfg.batch.n_clips, cfg.batch.n_stills)
    return DataLoader(
        FaceDataset(faces, items, cfg.batch.n_frames, transform),
        batch_sampler=PKBatchSampler(items, *numbers, seed=0),
        collate_fn=collate,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
    )


def endless(batches: DataLoader[Any]) -> Iterator[Batch]:
    while True:
        yield from batches


def frames_per_second(next_frames: Callable[[], int], seconds: float) -> float:
    """Return the median rate of five equal periods, after a warm-up of one second."""
    started = time.perf_counter()
    while time.perf_counter() - started < 1:
        next_frames()
    rates = []
    for _ in range(5):
        started, frames = time.perf_counter(), 0
        while (now := time.perf_counter()) - started < seconds / 5:
            frames += next_frames()
        rates.append(frames / (now - started))
    return statistics.median(rates)


def loaded(batches: DataLoader[Any]) -> Callable[[], int]:
    """Return a function that loads a batch and counts its frames and stills."""
    iterator = endless(batches)

    def take() -> int:
        batch = next(iterator)
        return int(batch.mask.sum()) + len(batch.stills)

    return take


def trained(bf16: bool) -> Callable[[], int]:
    """Return a function that runs the paper's encoder forward and backward on 64 crops, and counts them."""
    encoder = CasiaEncoder().to(memory_format=torch.channels_last)
    images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = encoder(images).float().square().mean()
        loss.backward()
        return len(images)

    return step


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each measurement")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    report = Report()
    report.say("# Loading training batches")
    report.say()
    report.say(f"{heading()}. `python scripts/benchmarks/benchmark_loader.py`")
    report.say()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.seconds, report)
    report.write(arguments.out / "loader.md")
    report.finish()


def measure(folder: Path, seconds: float, report: Report) -> None:
    from facereel.cli.main import main as facereel

    draw_data_set(folder / "faces")
    facereel(["prepare", "folder", str(folder / "faces"), str(folder / "out"), "--detector", "none"])
    cached = open_prepared(folder / "out").face_set()
    plain = FaceSet(cached.people, PlainFiles(cached), cached.rows, cached.clips, cached.stills)  # type: ignore[arg-type]
    report.say(f"{len(cached.rows)} images of 320 x 240; batches of 12 people x (2 clips of 10 frames + 2 stills).")
    report.say()
    report.say("| measured | frames per second |")
    report.say("|---|---:|")
    rates = {}
    for name, take in (
        ("the paper's encoder, forward and backward, float32", trained(bf16=False)),
        ("the paper's encoder, forward and backward, bf16", trained(bf16=True)),
        *(
            (f"{source}, augment={augment}, {n} worker{'s' if n > 1 else ''}", loaded(loader(faces, augment, n)))
            for source, faces in (("cache", cached), ("plain files", plain))
            for augment, n in (("none", N_WORKERS), ("images", 1), ("images", N_WORKERS), ("strong", N_WORKERS))
        ),
    ):
        rates[name] = frames_per_second(take, seconds)
        report.say(f"| {name} | {rates[name]:,.0f} |")
    report.say()
    encoder = max(rate for name, rate in rates.items() if "encoder" in name)
    report.say("The encoder is the released one without batch norm, alone on both cores; the faster one is compared.")
    report.say()
    for augment in ("images", "strong"):
        cache = rates[f"cache, augment={augment}, {N_WORKERS} workers"]
        files = rates[f"plain files, augment={augment}, {N_WORKERS} workers"]
        report.target(
            f"augment={augment}: at least {FACTOR} x the encoder's frames from the cache: {cache / encoder:.1f} x "
            f"(plain files {files / encoder:.1f} x)",
            cache >= FACTOR * encoder,
        )


if __name__ == "__main__":
    main()
