"""Clusters of codes: how right on real faces, and how fast on many drawn ones.

python scripts/benchmark_cluster.py [--sizes 10000 100000] [--features FILE] [--out DIR]

Prints and writes DIR/cluster.md. Needs the extra cpu (or gpu). FILE is what torch.save writes of a dict: F (N, 128) float
tensor, dlib's features of frames, and clips, a list of (person, source, rows of F); needs the extra pretrained. Without
it only the drawn codes are measured. Every size runs in a process of its own, whose memory is its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from measure import Report, heading
from numpy.typing import NDArray

from facereel.models import pretrained_hasher
from facereel.retrieval.cluster import THRESHOLD, cluster_tracks, default_threshold, nearest

N_BITS = 256
N_DIMS = 64
TRACKS_A_PERSON = 10
# Of pairs of one person's codes that are drawn so many bits differ in the mean, about as on YouTube Faces (0.21).
NOISE = 0.7
# Draws of half of the people.
SEEDS = range(5)
THRESHOLDS = tuple(round(0.16 + 0.01 * i, 2) for i in range(17))
N_EXACT = 20_000


class Scores(NamedTuple):
    """How groups agree with people, all in 0..1."""

    precision: float
    recall: float
    f: float
    """Of pairs of tracks."""
    b_precision: float
    b_recall: float
    b_f: float
    """B-cubed (Bagga and Baldwin 1998): means over tracks."""
    n_groups: int


def compare(people: NDArray[np.int64], groups: NDArray[np.int64]) -> Scores:
    """Compare (N,) groups with (N,) people."""
    pairs, both = np.unique(np.stack([people, groups]), axis=1, return_counts=True)
    _, of_person, size_of_person = np.unique(pairs[0], return_inverse=True, return_counts=False), None, None
    size_of_person = np.bincount(people)[pairs[0]]
    size_of_group = np.bincount(groups)[pairs[1]]

    def n_pairs(sizes: NDArray[np.int64]) -> float:
        return float((sizes * (sizes - 1)).sum()) / 2

    right = n_pairs(both)
    precision = right / max(1.0, n_pairs(np.bincount(groups)))
    recall = right / max(1.0, n_pairs(np.bincount(people)))
    b_precision = float((both**2 / size_of_group).sum()) / len(people)
    b_recall = float((both**2 / size_of_person).sum()) / len(people)
    return Scores(
        precision,
        recall,
        _f(precision, recall),
        b_precision,
        b_recall,
        _f(b_precision, b_recall),
        len(np.unique(groups)),
    )


def _f(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def drawn(n_tracks: int, each: int = TRACKS_A_PERSON) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Packed codes and people. A person is a normal vector, a track it and noise; bits depend on each other."""
    random = np.random.default_rng(0)
    person = random.permutation(np.arange(n_tracks) // each)
    people = random.standard_normal((n_tracks // each + 1, N_DIMS)).astype(np.float32)
    projection = random.standard_normal((N_DIMS, N_BITS)).astype(np.float32)
    codes = []
    for first in range(0, n_tracks, 50_000):
        own = people[person[first : first + 50_000]]
        noisy = own + NOISE * random.standard_normal(own.shape).astype(np.float32)
        codes.append(np.packbits(noisy @ projection > 0, axis=1))
    return np.concatenate(codes), person


class Run(NamedTuple):
    """Of one size."""

    seconds: float
    search_s: float
    megabytes: float
    scores: Scores
    recall_of_neighbours: float


def run(n_tracks: int) -> Run:
    """Cluster drawn codes in this process."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    codes, person = drawn(n_tracks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    groups = cluster_tracks(codes, N_BITS)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(seconds, 0.0, after - before, compare(person, groups), 0.0)
