"""Benchmark training steps of the paper's encoder with different memory layouts and precisions.

python scripts/benchmarks/benchmark_encoder.py [--batch 64] [--repeats 7]
"""

import argparse
import statistics
import time

import torch
from measure import heading

from facereel.models import CasiaEncoder


def seconds_per_step(batch: int, repeats: int, channels_last: bool, bf16: bool) -> float:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    encoder = CasiaEncoder(batch_norm=True).to(memory_format=layout)
    images = torch.randn(batch, 3, 64, 64).contiguous(memory_format=layout)
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = encoder(images).float().square().mean()
        loss.backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print(heading())
    print(f"forward and backward of {arguments.batch} crops of 64 x 64, median of {arguments.repeats}")
    base = None
    for channels_last in (False, True):
        for bf16 in (False, True):
            seconds = seconds_per_step(arguments.batch, arguments.repeats, channels_last, bf16)
            base = base or seconds
            name = f"{'channels last' if channels_last else 'contiguous':<14} {'bf16' if bf16 else 'float32':<8}"
            print(f"{name} {arguments.batch / seconds:7.0f} crops/s   {base / seconds:4.1f} x")


if __name__ == "__main__":
    main()
