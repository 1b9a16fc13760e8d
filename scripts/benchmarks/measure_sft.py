"""Measure where rotation (SFT) and translation differ: angles between class means and variations of real features.

python scripts/benchmarks/measure_sft.py PREPARED [--out DIR] [--mobilefacenet FILE]

PREPARED is the output of `facereel prepare`. Proposition 3 of the SFT supplement: both transforms agree if and only if
the variation of a feature from its class mean is orthogonal to both means. Prints and writes DIR/sft.md, and draws
DIR/sft.svg.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from measure import Report, benchmark_parser, heading
from torch import Tensor
from torch.nn.functional import normalize

from facereel.config.compose import compose_config
from facereel.data.source import prepared_folder, read_faces
from facereel.evaluation.features import encode_features
from facereel.functional import spherical_transform, translation_transform
from facereel.training.pipeline import build_hasher

PAIRS = 20_000


def unit_features(encoder: str, prepared: str, weights: str | None) -> tuple[Tensor, Tensor]:
    """Return the unit features of all frames and stills of people with clips, and their labels."""
    options = [f"encoder={encoder}", *([f"encoder.weights={weights}"] if weights else [])]
    config = compose_config("train", ["data=youtube_faces", f"data.manifest={prepared}", *options])
    faces = read_faces(config.data, 0, config.preprocess)
    people = {clip.person for clip in faces.clips}
    labels = {row: clip.person for clip in faces.clips for row in clip.rows}
    labels |= {still.row: still.person for still in faces.stills if still.person in people}
    hasher = build_hasher(config).eval()
    features = encode_features(hasher, faces, labels, folder=prepared_folder(config.data))
    return normalize(features[[*labels]].double(), dim=1), torch.tensor([*labels.values()])


def measures(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the terms of Proposition 3 and their effects, for random pairs of a feature and another person."""
    classes, labels = torch.unique(labels, return_inverse=True)
    means = normalize(torch.zeros(len(classes), x.shape[1]).double().index_add(0, labels, x), dim=1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(x), (PAIRS,), generator=generator)
    others = (labels[rows] + torch.randint(1, len(classes), (PAIRS,), generator=generator)) % len(classes)
    features, sources, targets = x[rows], means[labels[rows]], means[others]
    variation = features - sources
    length = variation.norm(dim=1)
    rotated = spherical_transform(features, sources, targets)
    moved = normalize(translation_transform(features, sources, targets), dim=1)
    basis = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False).Vh[: x.shape[1] // 4]
    deviations = x - means[labels]
    return {
        "cosine of variation and own mean": (variation * sources).sum(dim=1) / length,
        "cosine of variation and target mean": (variation * targets).sum(dim=1) / length,
        "angle of variation, rad": (features * sources).sum(dim=1).clamp(-1, 1).acos(),
        "angle between means, rad": (sources * targets).sum(dim=1).clamp(-1, 1).acos(),
        "angle between both results, rad": (rotated * moved).sum(dim=1).clamp(-1, 1).acos(),
        "energy in the means' leading quarter": (deviations @ basis.T).square().sum(dim=1)
        / deviations.square().sum(dim=1),
    }


def draw(found: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Draw histograms of both cosines and of the angle between the results, one line per encoder."""
    shown = (
        "cosine of variation and own mean",
        "cosine of variation and target mean",
        "angle between both results, rad",
    )
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), shown, strict=True):
        for encoder, values in found.items():
            axes.hist(values[name].numpy(), bins=80, density=True, histtype="step", label=encoder)
        axes.set_xlabel(name)
        axes.set_yticks([])
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("prepared")
    parser.add_argument("--mobilefacenet", help="weights of MobileFaceNet")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoders = {
        "MobileFaceNet": ("mobilefacenet", arguments.mobilefacenet),
        "dlib": ("dlib", None),
        "SFace": ("sface", None),
    }
    if arguments.mobilefacenet is None:
        del encoders["MobileFaceNet"]
    found = {
        name: measures(*unit_features(encoder, arguments.prepared, weights))
        for name, (encoder, weights) in encoders.items()
    }
    report = Report()
    report.say("# Rotation and translation of features, measured")
    report.say()
    report.say("Written by `python scripts/benchmarks/measure_sft.py PREPARED --mobilefacenet FILE`.")
    report.say(f"{heading()}.")
    report.say(
        f"{PAIRS:,} random pairs of a unit feature and another person's mean: medians (range of the middle 90 %)."
    )
    report.say()
    report.say("| | " + " | ".join(found) + " |")
    report.say("|---|" + "---:|" * len(found))
    quantiles = torch.tensor([0.5, 0.05, 0.95]).double()
    for name in next(iter(found.values())):
        cells = [
            "{:.2f} ({:.2f} to {:.2f})".format(*values[name].quantile(quantiles).tolist()) for values in found.values()
        ]
        report.say(f"| {name} | " + " | ".join(cells) + " |")
    report.say()
    report.say("![Cosines of variations and means, and the angle between both results](sft.svg)")
    draw(found, arguments.out / "sft.svg")
    report.write(arguments.out / "sft.md")
    report.finish()


if __name__ == "__main__":
    main()
