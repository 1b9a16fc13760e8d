"""Benchmark the time of augmentation per frame: one random draw per clip, or one per frame, on one core.

python scripts/benchmarks/benchmark_augment.py [--out DIR]

Prints and writes DIR/augment.md. Exits with 1 if a target is missed.
"""

from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import Report, benchmark_parser, heading, milliseconds
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from facereel.config.compose import config_dir
from facereel.data import ImageAugment

N_FRAMES = 10
# Number of clips per timed call, since augmentations are random.
N_CLIPS = 20
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": v2.RandomHorizontalFlip(1.0),
    "resized crop to 64": v2.RandomResizedCrop(64, scale=(0.75, 1.0), ratio=(0.9, 1.1)),
    "brightness, contrast": v2.ColorJitter(0.2, 0.2),
    "and saturation": v2.ColorJitter(0.2, 0.2, 0.2),
    "and hue": v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
    "grayscale": v2.RandomGrayscale(1.0),
    "blur, 5 x 5": v2.GaussianBlur(5, (0.1, 1.5)),
    "JPEG": v2.JPEG((40, 95)),
    "affine": v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
}


def faces(size: int) -> Tensor:
    """Return smooth noise, (T, 3, size, size) uint8, since the time of JPEG depends on the image."""
    small = torch.rand(N_FRAMES, 3, 9, 9)
    return (255 * interpolate(small, (size, size), mode="bicubic").clamp(0, 1)).byte()


def configured(name: str, alike: bool) -> ImageAugment:
    """Return the transform of an option of `augment`, without dropped frames, which would save time."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        images = compose("train", [f"augment={name}", "augment.images.drop_frames=0"]).augment.images
    return instantiate(images, same_geometry=alike, same_photometry=alike)


def main() -> None:
    parser = benchmark_parser(__doc__)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = Report()
    say = report.say
    say("# Augmentation of images, measured")
    say()
    say(f"Written by `python scripts/benchmarks/benchmark_augment.py`. {heading()}.")
    say(f"Microseconds per frame of 3 x 64 x 64 bytes, medians; clips of {N_FRAMES} frames.")
    say()
    clip, large = faces(64), faces(112)
    say("| transform, with probability 1 | one draw per frame | one draw per clip | the same, 112 px |")
    say("|---|---:|---:|---:|")
    for name, transform in TRANSFORMS.items():
        found = milliseconds(
            {
                "frame": lambda t=transform: [t(frame) for frame in clip],  # type: ignore[misc]
                "clip": lambda t=transform: t(clip),  # type: ignore[misc]
                "large": lambda t=transform: t(large),  # type: ignore[misc]
            }
        )
        say(f"| {name} | {' | '.join(f'{1000 * found.median(way) / N_FRAMES:.0f}' for way in found)} |")
    say()
    say("| augment= | stills | one draw per frame | one draw per clip |")
    say("|---|---:|---:|---:|")
    costs = {}
    for name in ("images", "strong"):
        each, alike = configured(name, alike=False), configured(name, alike=True)
        found = milliseconds(
            {
                "stills": lambda a=alike: [a(frame[None]) for _ in range(N_CLIPS) for frame in clip],  # type: ignore[misc]
                "frame": lambda a=each: [a(clip) for _ in range(N_CLIPS)],  # type: ignore[misc]
                "clip": lambda a=alike: [a(clip) for _ in range(N_CLIPS)],  # type: ignore[misc]
            }
        )
        per_frame = {way: 1000 * found.median(way) / N_FRAMES / N_CLIPS for way in found}
        say(f"| {name} | {' | '.join(f'{cost:.0f}' for cost in per_frame.values())} |")
        costs[name] = per_frame["clip"]
    say()
    report.target(
        f"all transforms, one draw per clip, at most 250 microseconds per frame: {costs['strong']:.0f}",
        costs["strong"] <= 250,
    )
    report.write(arguments.out / "augment.md")
    report.finish()


if __name__ == "__main__":
    main()
