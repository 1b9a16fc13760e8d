"""Codes of templates, and the metrics of their verification (1:1) and identification (1:N)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facereel.evaluation.encode import Encoded
from facereel.evaluation.intervals import means_over_people
from facereel.evaluation.open_set import Searches, accepted_at, at_rates, search, tpir_at_fpir
from facereel.evaluation.templates import TemplatePairs, TemplateSearches, template_of
from facereel.evaluation.verification import FALSE_MATCH_RATES
from facereel.functional import expected_recall_at_k
from facereel.functional.hamming import bit_distance

FMRS = tuple(10.0**-k for k in FALSE_MATCH_RATES)
RANKS = (1, 5, 10)

# Number of pairs compared at once.
_BLOCK = 2**12
_CHUNK_ELEMENTS = 2**23


def encode_templates(encoded: dict[str, Encoded], names: NDArray[np.int64]) -> Encoded:
    """Compute one code per template: the mean of the real-valued outputs of its clips and stills, thresholded.

    A clip consists of the frames of one video, so a video counts as much as a still.

    Args:
        encoded: the "clip" and "still" items, from `encode_part`.
        names: (T,) numbers of the templates; each has at least one item.

    Returns:
        The templates in the order of `names`; `items` contains the first clip or still of each.
    """
    items = [item for part in encoded.values() for item in part.items]
    place = torch.from_numpy(np.searchsorted(names, [template_of(item) for item in items]))
    scores = torch.cat([part.scores for part in encoded.values()])
    sums = torch.zeros(len(names), scores.shape[1], dtype=torch.float64).index_add(0, place, scores.double())
    means = (sums / torch.bincount(place, minlength=len(names))[:, None]).float()
    first = np.unique(place.numpy(), return_index=True)[1]
    labels = torch.tensor([items[i].person for i in first.tolist()], dtype=torch.int64)
    return Encoded(means > 0.5, means, labels, [items[i] for i in first.tolist()])


def verification_metrics(templates: Encoded, task: TemplatePairs) -> dict[str, Any]:
    """Compute the true match rates at several false match rates, for `metrics.json`.

    The threshold is the largest one at which the false match rate over all pairs is at most the given rate; the result
    is None if there are fewer pairs of different people than 1 / rate. Intervals are over the people of the matching
    pairs, with a fixed threshold.

    Args:
        templates: from `encode_templates`.
        task: pairs of templates.

    Returns:
        The entries of `verification` in `metrics.json`.
    """
    same = torch.from_numpy(task.same)
    people = templates.labels[torch.from_numpy(task.pairs[task.same, 0])]
    metrics: dict[str, Any] = {
        "pairs": task.file,
        "n_pairs": len(same),
        "n_pairs_same": int(same.sum()),
        "n_pairs_absent": task.n_absent,
        "n_templates": len(task.names),
    }
    for kind, values in (("codes", templates.codes), ("real_valued", templates.scores.double())):
        distances = _distances_of_pairs(values, task.pairs)
        accepted = accepted_at(distances[same], distances[~same], FMRS)
        metrics[kind] = at_rates("tmr_at_fmr", FMRS, *means_over_people([(people, accepted)]))
    return metrics


def identification_metrics(templates: Encoded, task: TemplateSearches) -> dict[str, Any]:
    """Compute closed-set and open-set identification rates, each the mean over galleries, for `metrics.json`.

    A probe is mated in a gallery that contains its person. Closed set: the probability that a template of the person is
    among the first k, over mated probes and random orders of tied templates. Open set: see
    `facereel.evaluation.open_set`; the probes that are not mated are the non-mated searches.

    Args:
        templates: from `encode_templates`.
        task: probes and galleries.

    Returns:
        The entries of `identification` in `metrics.json`.
    """
    metrics: dict[str, Any] = {
        "n_probes": len(task.probes),
        "n_templates_absent": task.n_absent,
        "galleries": {},
        "codes": {},
        "real_valued": {},
    }
    for kind in ("codes", "real_valued"):
        strata, searches = [], []
        for name, gallery in task.galleries.items():
            found, ranks = _search(templates, task.probes, gallery, kind == "codes")
            strata.append((found.people[found.is_mated], ranks))
            searches.append((found, found.nearest[~found.is_mated]))
            n_mated = int(found.is_mated.sum())
            counts = {"n_templates": len(gallery), "n_mated": n_mated, "n_non_mated": len(task.probes) - n_mated}
            metrics["galleries"][name] = counts
        metrics[kind] = {**at_rates("rank", RANKS, *means_over_people(strata)), **tpir_at_fpir(searches)}
    return metrics


def _search(
    templates: Encoded, probes: NDArray[np.int64], gallery: NDArray[np.int64], by_code: bool
) -> tuple[Searches, dict[str, Tensor]]:
    """Return the searches of a gallery and, for each rank, the values (M,) of the mated ones."""
    asked, searched = torch.from_numpy(probes), torch.from_numpy(gallery)
    labels, gallery_labels = templates.labels[asked], templates.labels[searched]
    values = templates.codes if by_code else templates.scores.double()
    measure = bit_distance if by_code else torch.cdist

    def distances(rows: slice) -> Tensor:
        return measure(values[asked[rows]], values[searched])

    found = search(distances, labels, gallery_labels)
    step = max(1, _CHUNK_ELEMENTS // len(gallery))
    counts = []
    for start in range(0, len(probes), step):
        rows = slice(start, start + step)
        distance, relevant = distances(rows), labels[rows, None] == gallery_labels
        # Only the templates up to the nearest one of the person matter: those before it, and those at its distance.
        mate = distance.double().masked_fill(~relevant, torch.inf).amin(dim=1, keepdim=True)
        tied = distance == mate
        parts = ((distance < mate).sum(dim=1), tied.sum(dim=1), (tied & relevant).sum(dim=1))
        counts.append(torch.stack(parts, dim=1)[found.is_mated[rows]])
    before, n_tied, n_relevant = torch.cat(counts).unbind(dim=1)
    n_items = torch.stack([before, n_tied], dim=1)
    histograms = n_items, torch.stack([torch.zeros_like(n_relevant), n_relevant], dim=1)
    return found, {str(k): expected_recall_at_k(*histograms, k) for k in RANKS}


def _distances_of_pairs(values: Tensor, pairs: NDArray[np.int64]) -> Tensor:
    """Return distances (P,) float64: Hamming for bool codes, squared Euclidean for other values."""
    places = torch.from_numpy(pairs)
    # Not a list of blocks: small tensors that are kept between large ones that are freed would fragment the memory.
    distances = torch.empty(len(places), dtype=torch.float64)
    for start in range(0, len(places), _BLOCK):
        first, second = (values[side] for side in places[start : start + _BLOCK].unbind(dim=1))
        differences = first ^ second if values.dtype == torch.bool else (first - second).square()
        distances[start : start + _BLOCK] = differences.sum(dim=1)
    return distances
