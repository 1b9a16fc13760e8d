"""What a trained model has to beat, on the same queries and gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from facereel.data import Clip, FaceSet, Still
from facereel.evaluation.encode import Encoded, encode_part, labels_of
from facereel.evaluation.metrics import evaluate_codes
from facereel.evaluation.split import Part, Split
from facereel.models import FittedHead, ItqHead, LshHead, MeanPooling, VideoHasher
from facereel.models.fitted_head import itq_directions

# Raw pixels are compared at this side at most: more of them tell people no better apart.
_PIXELS = 32

# Of each method, by task, the average precision of every query, NaN where it has no match.
Precisions = dict[str, dict[str, Tensor]]
# mAP by method and task.
Comparison = dict[str, dict[str, float]]


def mean_precisions(precisions: Precisions) -> Comparison:
    """The means over queries that have a match."""
    return {
        name: {task: float(values.nanmean()) for task, values in tasks.items()} for name, tasks in precisions.items()
    }


def compare_encoder(start: VideoHasher, features: FaceSet, split: Split, seed: int, n_bits: int) -> Precisions:
    """Score the encoder that training started from, as it was published: real-valued, and in LSH and ITQ codes.

    A clip is the mean of its frames' features; everything is scaled to unit length, so that distances rank as cosines
    do. LSH and ITQ are fitted on the training clips and stills.

    Args:
        start: its encoder is compared; pooling and head are not used.
        features: of that encoder, see `FaceSet.with_features`.
        split: its test part is searched for.
        seed: of LSH and ITQ.
        n_bits: length of the codes.

    Returns:
        Average precisions of each by task. LSH and ITQ are left out where nothing is trained on, ITQ also where it has
        fewer features or items than bits.
    """
    dim = start.encoder.dim
    queries, gallery = (_unit(features, part) for part in (split.test, split.gallery(split.test)))
    result = {"starting encoder, real-valued": _scored(queries, gallery, split, "mAP_float")}
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


@torch.no_grad()
def fit_head(hasher: VideoHasher, features: FaceSet, split: Split, seed: int) -> None:
    """Fit a model's head to the training part of a split, the stills of people without clips included.

    Args:
        hasher: its head is a `FittedHead`, and is fitted in place.
        features: of its encoder, see `FaceSet.with_features`.
        split: only what is trained on is read.
        seed: of random draws.

    Raises:
        UserError: if there is too little to fit it to.
    """
    hasher.head.fit(*pooled_for_fitting(hasher.pooling.cpu(), features, split), seed)


def check_fit(hasher: VideoHasher, split: Split) -> None:
    """Tell before anything is encoded or trained whether a model's head can be fitted, if it is one to be fitted.

    Raises:
        UserError: if there is too little to fit it to.
    """
    if isinstance(hasher.head, FittedHead):
        items = _items_for_fitting(split)
        hasher.head.check(len(items), len({item.person for item in items}))


def pooled_for_fitting(pooling: nn.Module, features: FaceSet, split: Split) -> tuple[Tensor, Tensor]:
    """Pooled clips and stills of the training part, and their labels: (N, P) and (N,)."""
    items = _items_for_fitting(split)
    rows = [item.rows if isinstance(item, Clip) else (item.row,) for item in items]
    pooled = [pooling(features.pictures(members)[None])[0] for members in rows]
    return torch.stack(pooled) if pooled else torch.zeros(0, 1), labels_of(items)


def _items_for_fitting(split: Split) -> list[Clip | Still]:
    return [*split.train.clips, *split.train.stills, *split.pretrain_only]


def _unit(features: FaceSet, part: Part) -> dict[str, Encoded]:
    """Mean features of unit length."""
    encoded = {}
    kinds: dict[str, Sequence[Clip | Still]] = {"clip": part.clips, "still": part.stills}
    for kind, items in kinds.items():
        if items:
            rows = [item.rows if isinstance(item, Clip) else (item.row,) for item in items]
            values = normalize(torch.stack([features.pictures(members).mean(dim=0) for members in rows]), dim=1)
            encoded[kind] = Encoded(values > 0, values, labels_of(items), items)
    return encoded


@torch.no_grad()
def _hashed(head: FittedHead, encoded: Encoded) -> Encoded:
    scores = head.forward_clips(encoded.scores)
    return Encoded(scores > 0.5, scores, encoded.labels, encoded.items)


def _scored(queries: dict[str, Encoded], gallery: dict[str, Encoded], split: Split, figure: str) -> dict[str, Tensor]:
    results = evaluate_codes(queries, gallery, split.leaves_out)
    return {task: result.precisions[figure] for task, result in results.items()}


def compare(hasher: VideoHasher, faces: FaceSet, split: Split, seed: int) -> Precisions:
    """Score raw pixels and an untrained network by the tasks of a split, at the model's code length.

    Raw pixels of a clip are the mean over its frames. LSH is random hyperplanes through the mean of the training
    pictures (Charikar 2002); ITQ is fitted on the training pictures (Gong and Lazebnik 2011). Nothing reads
    test before it is scored.

    Args:
        hasher: gives the code length and the architecture.
        faces: holds the crops.
        split: its test part is searched for.
        seed: of the hyperplanes and the untrained weights.

    Returns:
        Average precisions by task of each of: raw pixels (real-valued), LSH, ITQ, and the untrained network. LSH and
        ITQ are left out where the protocol trains on nothing, ITQ also where there are fewer training pictures than
        bits: they cannot be fitted.
    """
    rows = [still.row for still in split.train.stills] + [row for clip in split.train.clips for row in clip.rows]
    train = _pixels(faces, rows)
    n_bits = hasher.n_bits
    result: Precisions = {}
    methods: dict[str, Callable[[Tensor], Tensor]] = {"raw pixels, real-valued": lambda x: x}
    if rows:
        methods[f"raw pixels, LSH, {n_bits} bits"] = _lsh(train, n_bits, seed)
    if len(rows) >= n_bits:
        methods[f"raw pixels, ITQ, {n_bits} bits"] = _itq(train, n_bits, seed)
    for name, to_values in methods.items():
        queries, gallery = (_encode_pixels(faces, part, to_values) for part in (split.test, split.gallery(split.test)))
        result[name] = _scored(queries, gallery, split, "mAP_float" if "real-valued" in name else "mAP")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = hasher.untrained()
    device = next(hasher.parameters()).device
    queries, gallery = (encode_part(untrained, faces, part, device) for part in (split.test, split.gallery(split.test)))
    result[f"untrained network, {n_bits} bits"] = _scored(queries, gallery, split, "mAP")
    return result


def _pixels(faces: FaceSet, rows: Sequence[int]) -> Tensor:
    pictures = faces.pictures(rows)
    pictures = (pictures[:, :1] if faces.grey else pictures).float() / 255
    if pictures.shape[-1] > _PIXELS:
        pictures = interpolate(pictures, (_PIXELS, _PIXELS), mode="bilinear", antialias=True)
    return pictures.flatten(1)


def _encode_pixels(faces: FaceSet, part: Part, to_values: Callable[[Tensor], Tensor]) -> dict[str, Encoded]:
    encoded = {}
    kinds: dict[str, Sequence[Clip | Still]] = {"clip": part.clips, "still": part.stills}
    for kind, items in kinds.items():
        if items:
            rows = [item.rows if isinstance(item, Clip) else (item.row,) for item in items]
            values = to_values(torch.stack([_pixels(faces, members).mean(dim=0) for members in rows]))
            encoded[kind] = Encoded(values > 0, values, labels_of(items), items)
    return encoded


def _lsh(train: Tensor, n_bits: int, seed: int) -> Callable[[Tensor], Tensor]:
    planes = torch.randn(train.shape[1], n_bits, generator=torch.Generator().manual_seed(seed))
    return lambda x: (x - train.mean(dim=0)) @ planes


def _itq(train: Tensor, n_bits: int, seed: int) -> Callable[[Tensor], Tensor]:
    directions = itq_directions(train, n_bits, seed)
    return lambda x: (x - train.mean(dim=0)) @ directions
