"""Baselines for a trained model, on the same queries and gallery."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from facereel.data import Clip, FaceSet, Still
from facereel.evaluation.encode import Encoded, encode_part, labels_of
from facereel.evaluation.metrics import evaluate_codes
from facereel.evaluation.split import Part, Split
from facereel.models import (
    FittedHead,
    ItqHead,
    LshHead,
    MeanPooling,
    ProjectedPooling,
    RecognizabilityPooling,
    VideoHasher,
    center_on_unrecognizable,
)
from facereel.models.heads.fitted import itq_directions

# Raw pixels are compared at most at this side: a higher resolution does not distinguish people better.
_PIXELS = 32

# Average precision of every query by method and task, NaN where a query has no match.
Precisions = dict[str, dict[str, Tensor]]
# mAP by method and task.
Comparison = dict[str, dict[str, float]]


def mean_precisions(precisions: Precisions) -> Comparison:
    """Average the precisions over queries that have a match.

    Args:
        precisions: average precisions by method and task.

    Returns:
        mAP by method and task.
    """
    return {
        name: {task: float(values.nanmean()) for task, values in tasks.items()} for name, tasks in precisions.items()
    }


def starting_encoder(encoder: dict[str, Any], hasher: VideoHasher, init_from: str | None = None) -> VideoHasher | None:
    """Build a model with the encoder weights from before training, and the published output layer of the encoder.

    Args:
        encoder: encoder configuration with which training started.
        hasher: the trained model; its preprocessing, code length and trusted modules are used.
        init_from: run or checkpoint that provided the encoder weights, or None.

    Returns:
        The model, or None if training started from random weights.
    """
    if encoder.get("weights") is None and init_from is None:
        return None
    published = {**encoder, **({"embedding": True} if "embedding" in encoder and init_from is None else {})}
    parts = {"preprocess": {**hasher.config["preprocess"], "flip_tta": False}, "encoder": published}
    pooling, head = ({"_target_": f"facereel.models.{name}"} for name in ("MeanPooling", "LshHead"))
    start = VideoHasher({**parts, "pooling": pooling, "head": {**head, "n_bits": hasher.n_bits}}, hasher.trust)
    if init_from is not None:
        start.encoder.load_state_dict(VideoHasher.load(init_from, trust=hasher.trust).encoder.state_dict())
    return start


def compare_encoder(start: VideoHasher, features: FaceSet, split: Split, seed: int, n_bits: int) -> Precisions:
    """Evaluate the initial encoder with real-valued features, LSH codes and ITQ codes.

    A clip is the mean of the features of its frames; all vectors are scaled to unit length, so distances rank like
    cosines. LSH and ITQ are fitted on the training clips and stills.

    Args:
        start: model with the encoder; pooling and head are not used.
        features: features of that encoder; see `FaceSet.with_features`.
        split: split of the data set; its test part is searched.
        seed: random seed of LSH and ITQ.
        n_bits: length of the codes.

    Returns:
        Average precisions by method and task. LSH and ITQ are omitted if there is no training part, ITQ also if it has
        fewer features or items than bits.
    """
    dim = start.encoder.dim
    queries, gallery = _encoded_sides(split, features.images, lambda x: normalize(x, dim=1))
    result = {"starting encoder, real-valued": _scored(queries, gallery, split, "mAP_real_valued")}
    x, labels = pooled_for_fitting(MeanPooling(dim), features, split)
    heads = {"LSH": LshHead(dim, dim, n_bits), "ITQ": ItqHead(dim, dim, n_bits)}
    for name, head in heads.items():
        if len(x) and (name == "LSH" or n_bits <= min(len(x), dim)):
            head.fit(x, labels, seed)
            codes, searched = (
                {kind: _hashed(head, encoded) for kind, encoded in side.items()} for side in (queries, gallery)
            )
            result[f"starting encoder, {name}, {n_bits} bits"] = _scored(codes, searched, split, "mAP")
    return result


def fit_pooling(hasher: VideoHasher, features: FaceSet, split: Split) -> None:
    """Fit the `ProjectedPooling` of a model to the training images of a split; do nothing for another pooling.

    A `RecognizabilityPooling` gets its center, which no image of the split changes.

    Args:
        hasher: model; its pooling is fitted in place.
        features: features of its encoder; see `FaceSet.with_features`.
        split: split of the data set; only its training part is read.
    """
    if isinstance(hasher.pooling, ProjectedPooling):
        rows = {row: item.person for item in _items_for_fitting(split) for row in item.rows}
        hasher.pooling.cpu().fit(features.images([*rows]), torch.tensor([*rows.values()]))
    if isinstance(hasher.pooling, RecognizabilityPooling):
        center_on_unrecognizable(hasher)


@torch.no_grad()
def fit_head(hasher: VideoHasher, features: FaceSet, split: Split, seed: int) -> None:
    """Fit the head of a model to the training part of a split, including the stills of people without clips.

    Args:
        hasher: model with a `FittedHead`, which is fitted in place.
        features: features of its encoder; see `FaceSet.with_features`.
        split: split of the data set; only its training part is read.
        seed: random seed.

    Raises:
        UserError: if there is too little training data.
    """
    hasher.head.fit(*pooled_for_fitting(hasher.pooling.cpu(), features, split), seed)


def check_fit(hasher: VideoHasher, split: Split) -> None:
    """Check before encoding and training that a `FittedHead` can be fitted; do nothing for another head.

    Args:
        hasher: the model.
        split: split of the data set.

    Raises:
        UserError: if there is too little training data.
    """
    if isinstance(hasher.head, FittedHead):
        items = _items_for_fitting(split)
        hasher.head.check(len(items), len({item.person for item in items}))


def pooled_for_fitting(pooling: nn.Module, features: FaceSet, split: Split) -> tuple[Tensor, Tensor]:
    """Pool the clips and stills of the training part.

    Args:
        pooling: the pooling of a model.
        features: features of its encoder.
        split: split of the data set.

    Returns:
        Pooled clips and stills (N, P), and their labels (N,).
    """
    items = _items_for_fitting(split)
    pooled = [pooling(features.images(item.rows)[None])[0] for item in items]
    return torch.stack(pooled) if pooled else torch.zeros(0, 1), labels_of(items)


def _items_for_fitting(split: Split) -> list[Clip | Still]:
    return [*split.train.items, *split.pretrain_only]


def _encoded_sides(
    split: Split, read: Callable[[Sequence[int]], Tensor], project: Callable[[Tensor], Tensor]
) -> list[dict[str, Encoded]]:
    """Return queries and gallery of the test part; an item is the mean of the values of its rows, projected."""

    def encode(part: Part) -> dict[str, Encoded]:
        encoded = {}
        for kind, items in part.by_kind.items():
            values = project(torch.stack([read(item.rows).mean(dim=0) for item in items]))
            encoded[kind] = Encoded(values > 0, values, labels_of(items), items)
        return encoded

    return [encode(split.test), encode(split.gallery(split.test))]


@torch.no_grad()
def _hashed(head: FittedHead, encoded: Encoded) -> Encoded:
    scores = head.forward_clips(encoded.scores)
    return Encoded(scores > 0.5, scores, encoded.labels, encoded.items)


def _scored(queries: dict[str, Encoded], gallery: dict[str, Encoded], split: Split, metric: str) -> dict[str, Tensor]:
    results = evaluate_codes(queries, gallery, split.leaves_out)
    return {task: result.precisions[metric] for task, result in results.items()}


def compare(hasher: VideoHasher, faces: FaceSet, split: Split, seed: int) -> Precisions:
    """Evaluate raw pixels (real-valued, LSH and ITQ) and an untrained network, at the code length of the model.

    A clip is the mean of the pixels of its frames. LSH uses random hyperplanes through the mean of the training images
    (Charikar 2002); ITQ is fitted on the training images (Gong and Lazebnik 2011).

    Args:
        hasher: model; its code length and architecture are used.
        faces: the data set, which has the images.
        split: split of the data set; its test part is searched.
        seed: random seed of the hyperplanes and the untrained weights.

    Returns:
        Average precisions by method and task. LSH and ITQ are omitted if there is no training part, ITQ also if there
        are fewer training images than bits.
    """
    rows = [still.row for still in split.train.stills] + [row for clip in split.train.clips for row in clip.rows]
    read = partial(_pixels, faces)
    train = read(rows)
    n_bits = hasher.n_bits
    result: Precisions = {}
    methods: dict[str, Callable[[Tensor], Tensor]] = {"raw pixels, real-valued": lambda x: x}
    if rows:
        generator = torch.Generator().manual_seed(seed)
        planes = torch.randn(train.shape[1], n_bits, generator=generator)
        methods[f"raw pixels, LSH, {n_bits} bits"] = _projection(train, planes)
    if len(rows) >= n_bits:
        methods[f"raw pixels, ITQ, {n_bits} bits"] = _projection(train, itq_directions(train, n_bits, seed))
    for name, project in methods.items():
        queries, gallery = _encoded_sides(split, read, project)
        result[name] = _scored(queries, gallery, split, "mAP_real_valued" if "real-valued" in name else "mAP")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = hasher.untrained()
    device = hasher.device
    queries, gallery = (encode_part(untrained, faces, part, device) for part in (split.test, split.gallery(split.test)))
    result[f"untrained network, {n_bits} bits"] = _scored(queries, gallery, split, "mAP")
    return result


def _pixels(faces: FaceSet, rows: Sequence[int]) -> Tensor:
    images = faces.images(rows)
    images = (images[:, :1] if faces.grayscale else images).float() / 255
    if images.shape[-1] > _PIXELS:
        images = interpolate(images, (_PIXELS, _PIXELS), mode="bilinear", antialias=True)
    return images.flatten(1)


def _projection(train: Tensor, directions: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - train.mean(dim=0)) @ directions
