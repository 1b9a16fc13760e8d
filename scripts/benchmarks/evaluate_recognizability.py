"""Evaluate recognizability: weights of frames when most frames of a clip are poor, and a limit for poor photos.

Crops of a prepared data set (facereel prepare ... --size 200 --margin 1.4) are degraded in six ways. Three of the five
frames of each clip are degraded, for some of the people; photos are degraded by random amounts, for all people. The
features of degraded crops are stored in CACHE, so that a second run takes seconds.

    python scripts/benchmarks/evaluate_recognizability.py PREPARED CACHE --encoder sface
"""

import argparse
import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from measure import Report, heading
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from facereel.data import FaceSet, open_prepared
from facereel.data.face_set import window
from facereel.models import (
    DLIB_MEAN,
    DLIB_STD,
    DlibResNet,
    MeanPooling,
    MobileFaceNet,
    Preprocess,
    RecognizabilityPooling,
    SFaceEncoder,
    recognizability,
    unrecognizable_faces,
)

Image = NDArray[np.uint8]
# Margin of the crops of the data set.
MARGIN = 1.4
# Frames are degraded for one in this many people, since every degraded crop must be encoded.
EVERY = 6
# Amounts of degradation: hardly visible at 0; frames are degraded by amounts in this range, photos by 0 to 1.
POOR = (0.713, 1.0)
# Number of poor frames in a clip, of draws of them, and of degraded versions of a photo.
N_POOR, N_DRAWS, N_PHOTO_DRAWS = 3, 3, 1
BATCH = 32


def shrink(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Shrink to 112 to 10 pixels, measured on the standard crop; 20 to 10 for poor frames. Enlarge again."""
    side = round(112 * (10 / 112) ** amount * MARGIN / 1.2)
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def gaussian_blur(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Blur; the standard deviation is up to 6 % of the side, 2.9 to 6 % for poor frames."""
    return cv2.GaussianBlur(image, (0, 0), 0.005 * 12**amount * len(image))


def motion_blur(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Average along a line in a random direction of up to 35 % of the side, 15 to 35 % for poor frames."""
    length, angle = 0.02 * 17.5**amount * len(image), random.uniform(0, math.pi)
    half = math.ceil(length / 2)
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    end = np.array([math.cos(angle), math.sin(angle)]) * length / 2
    start, stop = (tuple(int(v) for v in np.round(half + sign * end)) for sign in (-1, 1))
    cv2.line(kernel, start, stop, (1.0,))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def jpeg(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Shrink to 112 to 48 pixels and compress with JPEG at quality 5; 61 to 48 for poor frames."""
    side = round(112 * (48 / 112) ** amount * MARGIN / 1.2)
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    decoded = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_COLOR)
    return cv2.resize(decoded, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def low_light(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Darken to 2 %, and add noise of 4 levels; 6 to 2 % for poor frames."""
    dark = 0.02**amount * image + random.normal(0, 4, image.shape)
    return np.clip(np.round(dark), 0, 255).astype(np.uint8)


def occlude(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Cover up to 60 % of the crop from one side with one gray; 46 to 60 % for poor frames."""
    turns = int(random.integers(4))
    covered = np.rot90(image, turns).copy()
    covered[: round((0.1 + 0.5 * amount) * len(image))] = random.integers(0, 256)
    return np.ascontiguousarray(np.rot90(covered, -turns))


DEGRADATIONS: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "shrink": shrink,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "jpeg": jpeg,
    "low_light": low_light,
    "occlude": occlude,
}


# Without a center, the pooling weighs frames by their lengths only.
POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "mean": lambda dim: MeanPooling(dim, unit_frames=True),
    "p = 2": lambda dim: RecognizabilityPooling(dim, p=2, length_p=0),
    "p = 3": lambda dim: RecognizabilityPooling(dim, p=3, length_p=0),
    "p = 4": lambda dim: RecognizabilityPooling(dim, p=4, length_p=0),
    "length only": lambda dim: RecognizabilityPooling(dim),
    "default": lambda dim: RecognizabilityPooling(dim),
}


class Encoder(NamedTuple):
    """An encoder with its preprocessing."""

    preprocess: Preprocess
    network: nn.Module

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        """Encode crops of margin 1.4, (B, 3, S, S) uint8 -> (B, D)."""
        return self.encode(window(crops, self.preprocess.margin / MARGIN, self.preprocess.vertical_offset) / 255)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Encode crops of the encoder's margin, (B, 3, S, S) in 0..1 -> (B, D)."""
        prepared = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network(prepared)
        return features


def build_encoder(name: str, weights: str) -> Encoder:
    """Build an encoder with the settings of its file in configs/encoder."""
    if name == "dlib":
        preprocess = Preprocess(150, margin=1.05, vertical_offset=0.15, mean=DLIB_MEAN, std=DLIB_STD)
        network: nn.Module = DlibResNet(weights=weights)
    elif name == "sface":
        preprocess = Preprocess(112, mean=(0.5,) * 3, std=(128 / 255,) * 3)
        network = SFaceEncoder(weights=weights)
    else:
        preprocess = Preprocess(112, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        network = MobileFaceNet(weights=weights)
    return Encoder(preprocess, network.eval().to(memory_format=torch.channels_last))


class Cache:
    """Features by name, each in a file of a folder."""

    def __init__(self, folder: Path, name: str, encoder: Encoder, faces: FaceSet) -> None:
        self.folder, self.name, self.encoder, self.faces = folder, name, encoder, faces
        folder.mkdir(parents=True, exist_ok=True)

    def features(self, key: str, rows: Sequence[int], degrade: Callable[[Image, int], Image] | None = None) -> Tensor:
        """Return the features (N, D) of rows of the data set, degraded by a function of the crop and its position."""
        file = self.folder / f"{self.name}-{key}.safetensors"
        if file.exists():
            return load_file(file)["features"]
        parts = []
        for start in range(0, len(rows), BATCH):
            crops = self.faces.images(rows[start : start + BATCH])
            if degrade is not None:
                images = crops.permute(0, 2, 3, 1).numpy()
                changed = [degrade(np.ascontiguousarray(image), start + i) for i, image in enumerate(images)]
                crops = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)
            parts.append(self.encoder(crops))
        features = torch.cat(parts)
        save_file({"features": features}, file)
        print(f"encoded {len(features)} crops: {self.name}, {key}", flush=True)
        return features

    def poor_frames(self, degradation: str, rows: Sequence[int]) -> Tensor:
        """Return the features of rows, each degraded by an amount of `POOR`."""

        def degrade(image: Image, i: int) -> Image:
            random = np.random.default_rng([zlib.crc32(degradation.encode()), rows[i]])
            return DEGRADATIONS[degradation](image, random.uniform(*POOR), random)

        return self.features(degradation, rows, degrade)

    def photos(self, rows: Sequence[int], draw: int) -> Tensor:
        """Return the features of photos, each degraded in a random way by a random amount."""

        def degrade(image: Image, i: int) -> Image:
            way, random = photo_degradation(rows[i], draw)
            return DEGRADATIONS[way](image, random.uniform(0, 1), random)

        return self.features(f"photos{draw}", rows, degrade)


def photo_degradation(row: int, draw: int) -> tuple[str, np.random.Generator]:
    """Return the random degradation of a photo, and the generator of its amount."""
    random = np.random.default_rng([draw, row])
    return str(random.choice([*DEGRADATIONS])), random


class Problem:
    """Clips and photos of the people who have clips, with the features of an encoder."""

    def __init__(self, cache: Cache, center: Tensor) -> None:
        faces = cache.faces
        people = sorted({clip.person for clip in faces.clips})
        stills = [still for still in faces.stills if still.person in set(people)]
        some = set(people[::EVERY])
        self.cache, self.center = cache, center
        self.names = [faces.people[still.person] for still in stills]
        self.still_rows = [still.row for still in stills]
        self.still_people = torch.tensor([still.person for still in stills])
        self.clip_people = torch.tensor([clip.person for clip in faces.clips])
        rows = [row for clip in faces.clips for row in clip.rows]
        n_frames = len(faces.clips[0].rows)
        self.stills = cache.features("stills", self.still_rows)
        self.clips = torch.unflatten(cache.features("frames", rows), 0, (-1, n_frames))
        self.some_clips = torch.tensor([person in some for person in self.clip_people.tolist()])
        self.some_stills = torch.tensor([person in some for person in self.still_people.tolist()])
        self.some_rows = [row for clip in faces.clips if clip.person in some for row in clip.rows]

    def pooled(self, name: str, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool clips (B, T, D) by one of `POOLINGS`."""
        pooling = POOLINGS[name](clips.shape[2])
        if isinstance(pooling, RecognizabilityPooling) and name != "length only":
            pooling.set_center(self.center[None])
        return pooling(clips, mask)

    def score(self, pooled: Tensor, some: bool = True) -> float:
        """Return the mAP of photos against pooled clips, of some people or of all."""
        stills, people, gallery = self.stills, self.still_people, self.clip_people
        if some:
            stills, people, gallery = stills[self.some_stills], people[self.some_stills], gallery[self.some_clips]
        same = people[:, None] == gallery
        order = cosines(stills, pooled).argsort(dim=1, descending=True, stable=True)
        found = same.gather(1, order).double()
        precision = found.cumsum(dim=1) / torch.arange(1, found.shape[1] + 1)
        return ((precision * found).sum(dim=1) / found.sum(dim=1)).mean().item()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each row of a and each row of b."""
    return normalize(a, dim=1) @ normalize(b, dim=1).T


def frames_table(problem: Problem, report: Report, degradations: Sequence[str]) -> None:
    """Report mAP with three degraded frames in each clip, by way of degradation and pooling."""
    clean = problem.clips[problem.some_clips]
    n_clips, n_frames, _ = clean.shape
    report.say(f"| 3 of 5 frames of every clip | {' | '.join(POOLINGS)} | oracle |")
    report.say("|---|" + "---:|" * (len(POOLINGS) + 1))
    totals = []
    for degradation in degradations:
        poor = problem.cache.poor_frames(degradation, problem.some_rows).view_as(clean)
        scores = []
        for seed in range(N_DRAWS):
            order = torch.rand(n_clips, n_frames, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
            is_poor = order < N_POOR
            clips = torch.where(is_poor[..., None], poor, clean)
            pooled = [problem.pooled(name, clips) for name in POOLINGS]
            scores.append([problem.score(x) for x in [*pooled, problem.pooled("mean", clips, ~is_poor)]])
        values = np.array(scores)
        means, deviations = values.mean(axis=0), values.std(axis=0, ddof=1)
        totals.append(means)
        cells = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in zip(means, deviations, strict=True)]
        report.say(f"| {degradation.replace('_', ' ')} | {' | '.join(cells)} |")
    report.say("| mean of these | " + " | ".join(f"{value:.3f}" for value in np.mean(totals, axis=0)) + " |")
    for title, some in (("none, the same people", True), ("none, all people", False)):
        clips = clean if some else problem.clips
        whole = [problem.score(problem.pooled(name, clips), some) for name in POOLINGS]
        report.say(f"| {title} | " + " | ".join(f"{value:.3f}" for value in whole) + " | |")


class Searches(NamedTuple):
    """Photos that were searched for among all clips."""

    scores: NDArray[np.float64]
    """Recognizability."""
    is_right: NDArray[np.bool_]
    """Whether the right person is first."""
    ways: NDArray[np.str_]
    """Name of the degradation, or "none"."""

    def part(self, chosen: NDArray[np.bool_]) -> "Searches":
        """Return a part of the searches."""
        return Searches(self.scores[chosen], self.is_right[chosen], self.ways[chosen])


def search_photos(problem: Problem) -> tuple[Searches, NDArray[np.bool_]]:
    """Search for each photo, as it is and degraded; also return whether its person is in the first half of people."""
    gallery = problem.pooled("default", problem.clips)
    draws = [problem.cache.photos(problem.still_rows, draw) for draw in range(N_PHOTO_DRAWS)]
    features = torch.cat([problem.stills, *draws])
    n_times = len(draws) + 1
    nearest = cosines(features, gallery).argmax(dim=1)
    is_right = problem.clip_people[nearest] == problem.still_people.repeat(n_times)
    ways = ["none"] * len(problem.stills)
    ways += [photo_degradation(row, draw)[0] for draw in range(len(draws)) for row in problem.still_rows]
    first = np.array([zlib.crc32(name.encode()) % 2 == 0 for name in problem.names] * n_times)
    scores = recognizability(features, problem.center).double().numpy()
    return Searches(scores, is_right.numpy(), np.array(ways)), first


def limit_of(searches: Searches) -> float:
    """Return the limit with the fewest errors, where a photo below it is predicted to be searched for in vain.

    Where right results become likelier with the score, just below it they come first in half of the searches.
    """
    order = np.argsort(searches.scores)
    right = searches.is_right[order]
    errors = np.concatenate([[0], np.cumsum(right)]) + np.concatenate([np.cumsum(~right[::-1])[::-1], [0]])
    best = int(errors.argmin())
    scores = searches.scores[order]
    if best == 0:
        return 0.0
    return float(scores[best - 1] if best == len(scores) else (scores[best - 1] + scores[best]) / 2)


def photos_table(problem: Problem, report: Report) -> None:
    """Report what a limit, chosen on one half of the people, does on the other half."""
    searches, first = search_photos(problem)
    for name, half in (("first", first), ("second", ~first)):
        report.say(f"limit chosen on the {name} half of the people: {limit_of(searches.part(half)):.3f}")
    limit = limit_of(searches.part(first))
    second = searches.part(~first)
    report.say()
    titles = [
        "photos of the second half",
        "searches",
        "right first",
        "too poor",
        "... right first",
        "others right first",
    ]
    report.say(f"| {' | '.join(titles)} |")
    report.say("|---|" + "---:|" * (len(titles) - 1))
    for way in ("none", *DEGRADATIONS, "all degraded"):
        chosen = second.part(second.ways != "none" if way == "all degraded" else second.ways == way)
        poor = chosen.scores < limit
        rates = [f"{chosen.is_right[x].mean():.3f}" if x.any() else "" for x in (poor, ~poor)]
        cells = [str(len(poor)), f"{chosen.is_right.mean():.3f}", f"{poor.mean():.3f}", *rates]
        report.say(f"| {way.replace('_', ' ')} | " + " | ".join(cells) + " |")
    edges = np.quantile(second.scores, np.linspace(0, 1, 11))
    report.say()
    report.say("| recognizability (second half, tenths) | right first |")
    report.say("|---|---:|")
    for low, high in itertools.pairwise(edges):
        inside = (second.scores >= low) & (second.scores <= high)
        report.say(f"| {low:.3f} to {high:.3f} | {second.is_right[inside].mean():.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path, help="prepared data set, with crops of margin 1.4")
    parser.add_argument("cache", type=Path, help="folder of the features")
    parser.add_argument("--encoder", choices=["sface", "dlib", "mobilefacenet"], default="sface")
    parser.add_argument("--weights", default="pretrained", help="file of the weights, or pretrained")
    parser.add_argument("--degradations", nargs="+", choices=[*DEGRADATIONS], default=[*DEGRADATIONS], help="of frames")
    parser.add_argument("--out", type=Path, help="file of the tables")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    faces = open_prepared(options.prepared).face_set(grayscale=True)
    encoder = build_encoder(options.encoder, options.weights)
    images = unrecognizable_faces(64, encoder.preprocess.margin, encoder.preprocess.vertical_offset)
    center = normalize(encoder.encode(images), dim=1).mean(dim=0)
    report = Report()
    problem = Problem(Cache(options.cache, options.encoder, encoder, faces), center)
    report.say(f"{options.encoder}, {heading()}")
    report.say(
        f"{int(problem.some_stills.sum())} photos against {int(problem.some_clips.sum())} clips of every "
        f"{EVERY}th person; all people: {len(problem.stills)} photos, {len(problem.clips)} clips"
    )
    report.say()
    frames_table(problem, report, options.degradations)
    report.say()
    photos_table(problem, report)
    if options.out:
        report.write(options.out)


if __name__ == "__main__":
    main()
