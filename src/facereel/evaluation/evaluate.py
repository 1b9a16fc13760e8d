"""Evaluation of a model on the test part of a split; `facereel.evaluation.write` writes the results."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from facereel.data import FaceSet
from facereel.errors import UserError
from facereel.evaluation.baselines import Comparison, Precisions, compare, compare_encoder, mean_precisions
from facereel.evaluation.encode import encode_part
from facereel.evaluation.features import split_features
from facereel.evaluation.metrics import TaskResult, evaluate_codes
from facereel.evaluation.open_set import open_set_metrics
from facereel.evaluation.pairs import ABSENT
from facereel.evaluation.significance import bootstrap_interval
from facereel.evaluation.split import Split
from facereel.evaluation.template_metrics import encode_templates, identification_metrics, verification_metrics
from facereel.evaluation.templates import TemplatePairs
from facereel.evaluation.verification import VerificationResult, verify_pairs
from facereel.models import VideoHasher
from facereel.system.environment import hardware, versions


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Args:
        seed: random seed of the baselines; recorded.
        weights: description of the weights from which training started; recorded.
        device: device to encode on.
        baselines: also evaluate raw pixels, an untrained network, and `start`.
        rerank_k: also rank at least this number of items by real-valued queries, as `mAP_reranked`; None skips that.
        start: model with the encoder weights from which training started, see `starting_encoder`; None skips that
            baseline.
        features_folder: folder of a prepared data set, in which features of `start` are stored; None does not store
            them.
    """

    seed: int = 0
    weights: str = "unknown"
    device: torch.device | str = "cpu"
    baselines: bool = False
    rerank_k: int | None = None
    start: VideoHasher | None = None
    features_folder: Path | None = None


@dataclass
class Evaluation:
    """The results of a model on the test part of a split."""

    faces: FaceSet
    split: Split
    metrics: dict[str, Any]
    """The content of metrics.json."""
    results: dict[str, TaskResult]
    """Results by task; empty if pairs or templates are verified."""
    verification: VerificationResult | None = None
    precisions: Precisions = field(default_factory=dict)
    """Average precisions of the model and the baselines, if baselines were requested."""

    @property
    def comparison(self) -> Comparison | None:
        """mAP by method and task, or None if no baselines were requested."""
        return mean_precisions(self.precisions) if self.precisions else None


def evaluate_model(
    hasher: VideoHasher, faces: FaceSet, split: Split, options: EvaluationOptions, features: FaceSet | None = None
) -> Evaluation:
    """Run all search tasks of the test part of a split, or verify its pairs, or verify or identify its templates.

    Several processes share the encoding.

    Args:
        hasher: the model.
        faces: the data set.
        split: split of the data set.
        options: options of the evaluation.
        features: features of the model's encoder, to use instead of images; see `FaceSet.with_features`.

    Returns:
        The results.

    Raises:
        UserError: if no query has a match, or baselines or `rerank_k` are requested without a search.
    """
    if (split.pairs is not None or split.templates is not None) and (options.baselines or options.rerank_k is not None):
        request, use = ("baselines=true", "compare") if options.baselines else (f"rerank_k={options.rerank_k}", "rank")
        raise UserError(f"{request}: protocol={split.protocol} has no search to {use}; remove that option")
    queries = encode_part(hasher, faces, split.test, options.device, features=features)
    gallery = queries
    if (searched := split.gallery(split.test)) is not split.test:
        gallery = encode_part(hasher, faces, searched, options.device, features=features)
    evaluation = Evaluation(faces, split, _record(hasher, split, options), {})
    if split.pairs is not None:
        evaluation.verification = verify_pairs(queries, split.pairs)
        evaluation.metrics["verification"] = _verification(split, evaluation.verification)
        return evaluation
    if split.templates is not None:
        templates = encode_templates(queries, split.templates.names)
        if isinstance(split.templates, TemplatePairs):
            evaluation.metrics["verification"] = verification_metrics(templates, split.templates)
        else:
            evaluation.metrics["identification"] = identification_metrics(templates, split.templates)
        return evaluation
    evaluation.results = evaluate_codes(queries, gallery, split.leaves_out, options.rerank_k)
    if not evaluation.results:
        raise UserError(f"protocol={split.protocol}: no query has an item of the same person in the gallery")
    evaluation.metrics["tasks"] = {
        task: {**result.metrics, "mAP_interval": _interval(result, faces), **open_set_metrics(result)}
        for task, result in evaluation.results.items()
    }
    if options.baselines:
        own = {task: result.precisions["mAP"] for task, result in evaluation.results.items()}
        evaluation.precisions = {f"facereel, {hasher.n_bits} bits": own, **_baselines(hasher, faces, split, options)}
    return evaluation


def _record(hasher: VideoHasher, split: Split, options: EvaluationOptions) -> dict[str, Any]:
    """Return the content of metrics.json without results."""
    record: dict[str, Any] = {
        "protocol": split.protocol,
        "split_sha256": split.sha256,
        "n_bits": hasher.n_bits,
        "seed": options.seed,
        "ties": "expected",
        "weights": options.weights,
        "versions": versions(),
        "hardware": hardware(),
        "tasks": {},
        "verification": None,
    }
    return record if options.rerank_k is None else {**record, "rerank_k": options.rerank_k}


def _verification(split: Split, verified: VerificationResult) -> dict[str, Any]:
    return {
        "pairs": split.pairs_file,
        "n_pairs": len(verified.pairs),
        "n_pairs_absent": split.notes.get(ABSENT, 0),
        "n_folds": len({pair.fold for pair in verified.pairs}),
        **verified.metrics,
    }


def _interval(result: TaskResult, faces: FaceSet) -> list[float]:
    """Return the lower and upper end of the interval over people of the mAP of a task."""
    items = zip(result.query.items, result.precisions["mAP"].tolist(), strict=True)
    return list(bootstrap_interval({item.key: (faces.people[item.person], ap) for item, ap in items if ap == ap}))


def _baselines(hasher: VideoHasher, faces: FaceSet, split: Split, options: EvaluationOptions) -> Precisions:
    compared: Precisions = {}
    if options.start is not None:
        features = split_features(options.start, faces, split, options.device, options.features_folder)
        compared = compare_encoder(options.start, features, split, options.seed, hasher.n_bits)
    return compared | compare(hasher, faces, split, options.seed)
