"""Evaluate an index on photos of people who are in its videos and of people who are not.

The index is built from a data set with people's names (facereel index PREPARED --out INDEX); stills are in
PERSON/IMAGE. Each still is searched for by its largest face, as a user would. People are split in two halves by a hash
of their name. A calibration is fitted to the first half, and everything that depends on it is evaluated on the second.

    python scripts/benchmarks/evaluate_face_search.py INDEX STILLS
"""

import argparse
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measure import heading
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.evaluation.clustering import clustering_metrics
from facereel.retrieval.calibration import Calibration, fit_calibration
from facereel.retrieval.clustering.groups import default_threshold, group_tracks
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.retrieval.track_index import Match, TrackIndex

RATES = (1e-2, 1e-3, 1e-4, 1e-5)
BOUNDS = (0.01, 0.05, 0.5, 0.9, 1.01)


def half(person: str) -> int:
    """Return 0 or 1, the half of a person."""
    return zlib.crc32(person.encode()) % 2


def queries_of(search: FaceSearch, stills: Path) -> tuple[list[str], list[Query], int]:
    """Return people and queries of all stills, and the number of stills without a face."""
    people, queries, n_faceless = [], [], 0
    for file in sorted(stills.glob("*/*.jpg")):
        try:
            queries.append(search.queries(file)[0])
            people.append(file.parent.name)
        except UserError:
            n_faceless += 1
    return people, queries, n_faceless


def distances_of(
    index: TrackIndex, queries: list[Query], find: Callable[[Query], list[Match]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (Q, N) distances to all tracks in the order of their ids, and (Q, N) the columns nearest first."""
    column = {track.id: i for i, track in enumerate(index.tracks())}
    distances = np.zeros((len(queries), len(column)))
    order = np.zeros(distances.shape, np.int64)
    for q, query in enumerate(queries):
        for rank, match in enumerate(find(query)):
            order[q, rank] = column[match.track.id]
            distances[q, order[q, rank]] = match.distance
    return distances, order


def mean_average_precision(is_same: NDArray[np.bool_], order: NDArray[np.int64]) -> tuple[float, float]:
    """Return mAP, and the fraction of queries whose first result is right; ties in the order of ids."""
    ranked = np.take_along_axis(is_same, order, axis=1)
    precision = ranked.cumsum(axis=1) / np.arange(1, ranked.shape[1] + 1)
    return float(((precision * ranked).sum(axis=1) / ranked.sum(axis=1)).mean()), float(ranked[:, 0].mean())


def report_calibrated(calibration: Calibration, distances: NDArray[np.float64], is_same: NDArray[np.bool_]) -> None:
    """Print what a calibration says about searches of people whom it was not fitted to."""
    n_tracks = distances.shape[1]
    threshold = calibration.threshold(n_tracks)
    there = is_same.any(axis=1)
    nearest = distances.min(axis=1)
    print(
        f"second half, threshold {threshold:.4f}: {(nearest[~there] <= threshold).mean():.3f} of {(~there).sum()}",
        end=" ",
    )
    print(
        f"searches for absent people find someone; {(nearest[there] > threshold).mean():.3f} of {there.sum()}", end=" "
    )
    own = np.where(is_same, distances, np.inf).min(axis=1)[there]
    print(f"searches for present people find nobody, {(own > threshold).mean():.3f} not them")
    different = np.sort(distances[there][~is_same[there]])
    for rate in RATES:
        at = different[int(rate * len(different))]
        print(
            f"  true matches at a false match rate of {rate:g}: {(distances[is_same] <= at).mean():.3f} (at {at:.4f})"
        )
    predicted = np.vectorize(lambda distance: calibration.probability(distance, n_tracks))(distances)
    for low, high in pairwise(BOUNDS):
        chosen = (predicted >= low) & (predicted < high)
        print(
            f"  probability {low} to {min(high, 1)}: predicted {predicted[chosen].mean():.3f},",
            f"true {is_same[chosen].mean():.3f} of {chosen.sum()} tracks",
        )


def report_groups(index: TrackIndex, calibration: Calibration) -> None:
    """Print how well the default groups of the tracks of the second half agree with people."""
    tracks = [track for track in index.tracks() if track.person is not None and half(track.person)]
    people = np.unique([track.person for track in tracks], return_inverse=True)[1]
    unnamed = [track._replace(person=None) for track in tracks]
    threshold = default_threshold(calibration, len(tracks))
    groups = np.array(group_tracks(index, unnamed, threshold))
    n_people = len(np.unique(people))
    per_person = np.mean([len(np.unique(groups[people == person])) for person in range(n_people)])
    metrics = clustering_metrics(people, groups)
    print(
        f"groups of {len(tracks)} tracks of {n_people} people at {threshold:.4f}: {per_person:.2f} a person;", end=" "
    )
    print(f"B-cubed F {metrics['b_cubed']['f']:.3f}, purity {metrics['weighted_purity']:.3f}, NMI {metrics['nmi']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("stills", type=Path)
    options = parser.parse_args()
    print(heading())
    torch.set_grad_enabled(False)
    search = FaceSearch(options.index)
    index = search.index
    n_tracks = len(index)
    people, queries, n_faceless = queries_of(search, options.stills)
    of_tracks = np.array([track.person for track in index.tracks()])
    is_same = np.array(people)[:, None] == of_tracks[None]
    there = is_same.any(axis=1)
    print(
        f"{n_tracks} tracks; {there.sum()} stills of people in them, {(~there).sum()} of others, {n_faceless} faceless"
    )
    ways: dict[str, Callable[[Query], list[Match]]] = {
        "codes, Hamming": lambda query: index.search(query.code, n_tracks),
        "codes, real-valued query": lambda query: index.search(query.code, n_tracks, scores=query.scores),
    }
    if index.has_features:
        ways["features"] = lambda query: index.search(query.code, n_tracks, feature=query.feature)
    for name, find in ways.items():
        present = [query for query, is_there in zip(queries, there, strict=True) if is_there]
        _, order = distances_of(index, present, find)
        precision, first = mean_average_precision(is_same[there], order)
        print(f"{name}: mAP {precision:.3f}, right person first {first:.3f}")
    *_, most_exact = ways.values()
    distances, _ = distances_of(index, queries, most_exact)
    halves = np.array([half(person) for person in people])
    calibration = fit_calibration(distances[halves == 0].ravel(), is_same[halves == 0].ravel())
    print(f"calibration from the first half: {calibration}")
    report_calibrated(calibration, distances[halves == 1], is_same[halves == 1])
    report_groups(index, calibration)


if __name__ == "__main__":
    main()
