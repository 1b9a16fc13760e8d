"""Compare the time of a training step with the encoder alone: Lightning's step of stage 1 and the encoder in turns.

python scripts/benchmarks/benchmark_train_step.py [--steps 6] [--width 1.0] [--profile]

Batches are the released code's, 6 people x (5 clips of 30 frames + 5 stills) of 64 x 64. A step is everything
between two batches: loading, augmentation if any, encoder, pooling, heads, triplets, backward, the check for non-finite
values, SGD. The bare encoder is its forward and backward over as many images, given as floats.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from measure import Report, benchmark_parser, heading
from pytorch_lightning.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from facereel.config.compose import config_dir
from facereel.data import Clip, FaceSet, Row, Still
from facereel.evaluation.protocols import ClosedSet
from facereel.training.pipeline import build_hasher
from facereel.training.stage import build_parts, build_trainer

TARGET = 1.1

# Measured cases: overrides of configs/train.yaml.
CASES = {
    "no augmentation": ["augment=none"],
    "augment=sft, pooled": ["augment=sft", "augment.features.clips=pooled", "augment.features.warm_up=0"],
}


def random_faces(n_people: int = 8) -> FaceSet:
    """Return ten clips of 30 frames and ten stills per person, of random pixels."""
    rows: list[Row] = []
    clips: list[Clip] = []
    stills: list[Still] = []
    for person in range(n_people):
        for c in range(10):
            members = tuple(range(len(rows), len(rows) + 30))
            source = f"{person}/{c}"
            rows += [Row(str(person), str(c), source, f"{source}/{i}", "") for i in members]
            clips.append(Clip(person, source, source, members))
            stills.append(Still(person, f"{person}/s{c}", f"{person}/s{c}", len(rows)))
            rows.append(Row(str(person), "", f"s{c}", f"{person}/s{c}", ""))
    crops = torch.randint(256, (len(rows), 3, 64, 64), dtype=torch.uint8)
    return FaceSet([str(person) for person in range(n_people)], crops, rows, clips, stills)


class Turns(Callback):
    """Callback that runs the bare encoder between two steps, on as many images."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        self.encoder = encoder
        self.steps: list[float] = []
        self.bare: list[float] = []
        self.started: float | None = None
        self.n_images = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Time the step, then the encoder."""
        now = time.perf_counter()
        if self.started is not None:
            self.steps.append(now - self.started)
        self.n_images = len(batch.stills) + int(batch.mask.sum())
        images = torch.rand(self.n_images, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        started = time.perf_counter()
        features = self.encoder(images)
        features.square().mean().backward()
        if self.started is not None:
            self.bare.append(time.perf_counter() - started)
        self.encoder.zero_grad()
        del images, features
        self.started = time.perf_counter()


def measure(overrides: list[str], steps: int, width: float, profiled: bool) -> tuple[Turns, str]:
    """Return times of steps and of the bare encoder, without the first of each, and the profile if wanted."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        chosen = ["experiment=dhh_released", "trainer=cpu", f"encoder.width={width}", "data=folder", *overrides]
        cfg = compose("train", [*chosen, "data.root=none", "out=none"])
    torch.manual_seed(0)
    faces = random_faces()
    hasher = build_hasher(cfg)
    stage = cfg.stages.stage1
    module, data = build_parts(cfg, 0, stage, hasher, faces, ClosedSet(0.3, 0.0).split(faces, 0))
    bare = type(hasher.encoder)(width=width).to(memory_format=torch.channels_last)
    turns = Turns(bare)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            cfg,
            default_root_dir=Path(folder),
            max_steps=steps + 1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[turns],
        )
        trainer.fit(module, datamodule=data)
        table = ""
        if profiled:
            batch = next(iter(data.train_dataloader()))
            module.train()
            with profile(activities=[ProfilerActivity.CPU]) as found:
                module.loss(module.outputs(batch)).backward()
            averages = found.key_averages()
            table = averages.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)
    return turns, table


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--width", type=float, default=1.0, help="width of the encoder; 1 is the paper's")
    parser.add_argument("--profile", action="store_true", help="print the profile of the operators in the first case")
    arguments = parser.parse_args()
    report = Report()
    report.say("# A training step")
    report.say()
    report.say(f"{heading()}. `python scripts/benchmarks/benchmark_train_step.py`")
    report.say()
    report.say("A step of stage 1 of `experiment=dhh_released` in Lightning, including loading, compared with forward")
    report.say(f"and backward of the encoder alone on as many images. Both run in turns; medians of {arguments.steps}.")
    report.say()
    report.say("| case | images | step, s | bare encoder, s | step over encoder |")
    report.say("|---|---:|---:|---:|---:|")
    ratios: dict[str, float] = {}
    tables = []
    for name, overrides in CASES.items():
        turns, table = measure(overrides, arguments.steps, arguments.width, arguments.profile and not ratios)
        step, bare = statistics.median(turns.steps), statistics.median(turns.bare)
        ratios[name] = statistics.median(a / b for a, b in zip(turns.steps, turns.bare, strict=True))
        report.say(f"| {name} | {turns.n_images} | {step:.2f} | {bare:.2f} | {ratios[name]:.3f} |")
        tables.append(table)
    report.say()
    first = next(iter(CASES))
    report.target(f"{first}: at most {TARGET} x the encoder: {ratios[first]:.3f} x", ratios[first] <= TARGET)
    if arguments.width == 1.0:
        report.write(arguments.out / "train_step.md")
    print("\n".join(filter(None, tables)))
    report.finish()


if __name__ == "__main__":
    main()
