"""Evaluate how well stills find a person's videos in an index, and how well the threshold detects absent people.

The index is built from a data set with people's names (facereel index PREPARED --out INDEX); stills are in
PERSON/IMAGE. Each still is searched for by its largest face, as a user would. People with tracks in the index are split
in two halves by name, and so are people without tracks. The first half gives the rates of `CALIBRATION`; the second
half evaluates the threshold made from them.

    python scripts/benchmarks/evaluate_face_search.py INDEX STILLS
"""

import argparse
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measure import heading
from numpy.typing import NDArray

from facereel.errors import UserError
from facereel.retrieval.face_search import ONE_IN, FaceSearch

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


class Searched(NamedTuple):
    """A still, and the whole index in the order of its search."""

    person: str
    distances: NDArray[np.float64]
    is_same: NDArray[np.bool_]

    @property
    def is_first_half(self) -> bool:
        """Whether the person is in the half that the rates are measured on."""
        return zlib.crc32(self.person.encode()) % 2 == 0


def search_all(search: FaceSearch, stills: Path) -> tuple[list[Searched], int]:
    """Return the search of every still, and the number of stills without a face."""
    searched, n_faceless = [], 0
    for file in sorted(stills.glob("*/*.jpg")):
        try:
            query = search.queries(file)[0]
        except UserError:
            n_faceless += 1
            continue
        matches = search.index.search(query.code, len(search.index), scores=query.scores)
        distances = np.array([match.distance for match in matches])
        person = file.parent.name
        searched.append(Searched(person, distances, np.array([match.track.person == person for match in matches])))
    return searched, n_faceless


def average_precision(is_same: NDArray[np.bool_]) -> float:
    """Return the average precision of one ranking; asymmetric distances have no ties."""
    ranks = np.flatnonzero(is_same) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def rates_of(searched: list[Searched]) -> list[tuple[float, float]]:
    """Return rates of comparisons of two people below a distance, with these distances."""
    others = np.sort(np.concatenate([one.distances[~one.is_same] for one in searched]))
    return [(rate, round(float(others[int(rate * len(others))]), 4)) for rate in RATES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("stills", type=Path)
    options = parser.parse_args()
    print(heading())
    torch.set_grad_enabled(False)
    search = FaceSearch(options.index)
    n_tracks = len(search.index)
    searched, n_faceless = search_all(search, options.stills)
    held = [one for one in searched if one.is_same.any()]
    absent = [one for one in searched if not one.is_same.any()]
    print(
        f"{n_tracks} tracks; {len(held)} stills of people in them, {len(absent)} of others, {n_faceless} without a face"
    )
    recall = {k: np.mean([one.is_same[:k].any() for one in held]) for k in (1, 5, 10)}
    print(f"mAP {np.mean([average_precision(one.is_same) for one in held]):.3f}", end="; ")
    print(", ".join(f"recall at {k} {share:.3f}" for k, share in recall.items()))
    print("rates in the first half of the people:", rates_of([one for one in searched if one.is_first_half]))
    print("rates in the second half:", rates_of([one for one in searched if not one.is_first_half]))
    rates, distances = zip(*rates_of([one for one in searched if one.is_first_half])[::-1], strict=True)
    second = [one for one in held if not one.is_first_half]
    strangers = [one for one in absent if not one.is_first_half]
    print(f"thresholds from the first half at {n_tracks} tracks, evaluated on the second half:")
    for one_in in (2, ONE_IN, 10, 20):
        threshold = float(np.interp(np.log10(1 / (one_in * n_tracks)), np.log10(rates), distances))
        false = np.mean([one.distances[0] <= threshold for one in strangers])
        within = np.mean([one.distances[one.is_same][0] <= threshold for one in second])
        first = np.mean([one.is_same[0] and one.distances[0] <= threshold for one in second])
        print(f"  one in {one_in}: {threshold:.4f}; {false:.3f} of searches for absent people return someone;", end=" ")
        print(f"{within:.3f} of searches for present people find a video of them, {first:.3f} as the first result")
    genuine = np.concatenate([one.distances[one.is_same] for one in second])
    for rate, distance in rates_of([one for one in searched if one.is_first_half]):
        print(f"  at a false match rate of {rate:g}: {(genuine <= distance).mean():.3f} of true pairs match")


if __name__ == "__main__":
    main()
