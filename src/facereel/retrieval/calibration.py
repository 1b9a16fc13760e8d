"""Probabilities for distances: a calibration, and how to measure one."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.data import open_prepared
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval.encode import EncodedFace, encode_crops, has_features

# Indexes of fewer tracks are judged like this one.
_FEWEST = 500
# In calibrations of earlier versions, one in this number of searches for absent people returned a match.
_ONE_IN = 4
# Newton's method converges in about 10 steps.
_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """The log-likelihood ratio that two faces show the same person: intercept - slope * distance.

    In an index of N tracks, one track of the person is expected on average, so the odds of a track are the likelihood
    ratio divided by N. A small index is judged like one of 500 tracks: in a few films, all people may look alike. Both
    are our choice.
    """

    intercept: float
    slope: float
    """Greater than 0."""

    def probability(self, distance: float, n_tracks: int) -> float:
        """Return the probability, in 0..1, that a track shows the searched person.

        Args:
            distance: distance of the track.
            n_tracks: number of tracks in the index.

        Examples:
            >>> round(Calibration(20.0, 50.0).probability(0.2, n_tracks=1000), 3)
            0.957
        """
        odds = self.intercept - self.slope * distance - math.log(max(_FEWEST, n_tracks))
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, odds))))

    def threshold(self, n_tracks: int, log_odds: float = 0.0) -> float:
        """Return the distance at which the odds that a track shows the searched person have this logarithm.

        Args:
            n_tracks: number of tracks in the index.
            log_odds: logarithm of the odds; 0 for a probability of 1/2.

        Returns:
            The distance, at least 0.
        """
        return max(0.0, (self.intercept - math.log(max(_FEWEST, n_tracks)) - log_odds) / self.slope)


# For `pretrained_hasher`, by encoder: the distances of features, and of codes that are not fitted. From LFW stills of
# half of the people against 861 clips of YouTube Faces; error rates on the other half: docs/results/search_accuracy.md.
SHIPPED = {
    "sface": (Calibration(27.6, 78.1), Calibration(25.8, 74.4)),
    "dlib": (Calibration(17.2, 394.6), Calibration(13.0, 61.4)),
}


def read_calibration(value: Any) -> Calibration | None:
    """Read the calibration in the metadata of an index.

    Args:
        value: a dictionary with intercept and slope; or, in older indexes, pairs of false match rate and distance.

    Returns:
        The calibration; None if the index has none.

    Raises:
        ValueError: if the value is damaged.
    """
    if not value:
        return None
    if isinstance(value, dict):
        found = Calibration(float(value["intercept"]), float(value["slope"]))
    else:
        rates, distances = np.array(value, np.float64).T
        # At the false match rate 1 / (4 N) the older threshold of N tracks was reached, now a probability of 1/2. The
        # relation is a line for the small rates of common index sizes.
        small = rates <= max(1e-3, float(np.sort(rates)[1]))
        line = np.polyfit(distances[small], -np.log(_ONE_IN * rates[small]), 1)
        found = Calibration(float(line[1]), float(-line[0]))
    if not (math.isfinite(found.intercept) and 0 < found.slope < math.inf):
        raise ValueError("the slope must be positive")
    return found


def fit_calibration(distances: NDArray[np.float64], is_same: NDArray[np.bool_]) -> Calibration:
    """Fit a logistic regression to pairs of faces; their ratio of same to different is removed from the intercept.

    Args:
        distances: (N,) distance of each pair.
        is_same: (N,) whether the pair shows one person.

    Returns:
        The calibration.

    Raises:
        UserError: if there are no pairs of one kind, or distances do not separate them.
    """
    n_same = int(is_same.sum())
    if not 0 < n_same < len(is_same):
        raise UserError("a calibration needs stills and clips of the same people and of different people")
    center, scale = distances.mean(), max(float(distances.std()), 1e-12)
    x = np.stack([np.ones(len(distances)), (distances - center) / scale], axis=1)
    base = math.log(n_same / (len(is_same) - n_same))
    weights = np.zeros(2)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -700, 700)))
        # The small ridge keeps kinds that are completely separate at finite weights.
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(2)
        weights = weights + np.linalg.solve(hessian, x.T @ (is_same - p) - 1e-3 * weights)
    slope = -weights[1] / scale
    if not slope > 0:
        raise UserError("the distances of the same people are not smaller than those of different people")
    return Calibration(float(weights[0] - base + slope * center), float(slope))


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration from half of the people, and its error rates on the other half."""

    calibration: Calibration
    n_people: int
    """People of both halves with stills and clips."""
    n_clips: int
    found: float
    """Fraction of searches for people with a clip that return a clip of them within the threshold."""
    false_alarms: float
    """Fraction of searches for people without a clip that return anyone within the threshold."""


def measure_calibration(model: VideoHasher, prepared: Path, codes_only: bool = False) -> CalibrationReport:
    """Measure a calibration on a prepared data set: every still is compared with every clip.

    People are split into two halves, in the order of a hash of their name.

    Args:
        model: model of the index.
        prepared: folder that `facereel prepare` wrote, with clips and stills of the same people.
        codes_only: calibrate the distances of codes, even if the model `has_features`.

    Returns:
        The calibration and its error rates.

    Raises:
        UserError: if the data set has too few stills or clips.
    """
    loaded = open_prepared(prepared.expanduser().absolute())
    faces = loaded.face_set(margin=model.preprocess.margin, vertical_offset=model.preprocess.vertical_offset)
    if not faces.clips or not faces.stills:
        raise UserError(f"{prepared} has {len(faces.clips)} clips and {len(faces.stills)} stills: both are needed")
    clips = [encode_crops(faces.images(clip.rows), model) for clip in faces.clips]
    stills = [encode_crops(faces.images((still.row,)), model) for still in faces.stills]
    distances = pair_distances(stills, clips, codes_only=codes_only or not has_features(model))
    of_stills, of_clips = (np.array([item.person for item in items]) for items in (faces.stills, faces.clips))
    both = set(of_stills.tolist()) & set(of_clips.tolist())
    if len(both) < 2:
        raise UserError(f"{prepared} has {len(both)} people with both stills and clips: at least 2 are needed")
    # In an order that does not depend on the names' alphabet, people with both first, so that each half has some.
    names = enumerate(faces.people)
    order = [person for *_, person in sorted((p not in both, zlib.crc32(name.encode()), p) for p, name in names)]
    half = np.empty(len(order), np.int64)
    half[order] = np.arange(len(order)) % 2
    is_same = of_stills[:, None] == of_clips[None]
    first = half[of_stills] == 0
    calibration = fit_calibration(distances[first].ravel(), is_same[first].ravel())
    distances, is_same = distances[~first], is_same[~first]
    threshold = calibration.threshold(len(clips))
    there = is_same.any(axis=1)
    found = ((distances <= threshold) & is_same)[there].any(axis=1)
    alarms = (distances <= threshold)[~there].any(axis=1)
    return CalibrationReport(calibration, len(both), len(clips), _mean(found), _mean(alarms))


def pair_distances(
    queries: Sequence[EncodedFace], gallery: Sequence[EncodedFace], codes_only: bool
) -> NDArray[np.float64]:
    """Compute the distances that `TrackIndex.search` returns.

    Args:
        queries: Q faces.
        gallery: N faces.
        codes_only: compare scores with codes instead of features.

    Returns:
        (Q, N) distances in 0..1.
    """
    if not codes_only:
        first, second = (
            torch.stack([one.feature for one in items if one.feature is not None]) for items in (queries, gallery)
        )
        return ((1 - first.double() @ second.double().T) / 2).numpy()
    scores = torch.stack([one.scores for one in queries]).double()
    signs = torch.stack([one.code for one in gallery]).double() * 2 - 1
    sure = (2 * scores - 1).abs()
    agreement = (torch.where(scores > 0.5, 1.0, -1.0) * sure) @ signs.T
    return ((1 - agreement / sure.sum(dim=1, keepdim=True)) / 2).numpy()


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan
