"""What a trained model has to beat, on the same queries and gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from facereel.data import Clip, FaceSet, Still
from facereel.evaluation.encode import Encoded, encode_part, labels_of
from facereel.evaluation.metrics import evaluate_codes
from facereel.evaluation.split import Part, Split
from facereel.models import VideoHasher

# A row of the comparison: mAP by task.
Comparison = dict[str, dict[str, float]]


def compare(hasher: VideoHasher, faces: FaceSet, split: Split, seed: int) -> Comparison:
    """Score raw pixels and an untrained network by the tasks of a split, at the model's code length.

    Raw pixels of a clip are the mean over its frames. LSH is random hyperplanes through the mean of the training
    pictures (Charikar 2002); ITQ is fitted on the training pictures (Gong and Lazebnik 2011; FAISS). Nothing reads
    test before it is scored.

    Args:
        hasher: gives the code length and the architecture.
        faces: holds the crops.
        split: its test part is searched for.
        seed: of the hyperplanes and the untrained weights.

    Returns:
        mAP by task for each of: raw pixels (real-valued), LSH, ITQ, and the untrained network. LSH and
        ITQ are left out where the protocol trains on nothing, ITQ also where there are fewer training pictures than
        bits: they cannot be fitted.
    """
    rows = [still.row for still in split.train.stills] + [row for clip in split.train.clips for row in clip.rows]
    train = _pixels(faces, rows)
    n_bits = hasher.n_bits
    result: Comparison = {}
    methods: dict[str, Callable[[Tensor], Tensor]] = {"raw pixels, real-valued": lambda x: x}
    if rows:
        methods[f"raw pixels, LSH, {n_bits} bits"] = _lsh(train, n_bits, seed)
    if len(rows) >= n_bits:
        methods[f"raw pixels, ITQ, {n_bits} bits"] = _itq(train, n_bits)
    for name, to_values in methods.items():
        queries, gallery = (_encode_pixels(faces, part, to_values) for part in (split.test, split.gallery(split.test)))
        figure = "mAP_float" if "real-valued" in name else "mAP"
        result[name] = {
            task: float(r.metrics[figure]) for task, r in evaluate_codes(queries, gallery, split.leaves_out).items()
        }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = hasher.untrained()
    device = next(hasher.parameters()).device
    queries, gallery = (encode_part(untrained, faces, part, device) for part in (split.test, split.gallery(split.test)))
    result[f"untrained network, {n_bits} bits"] = {
        task: float(r.metrics["mAP"]) for task, r in evaluate_codes(queries, gallery, split.leaves_out).items()
    }
    return result


def _pixels(faces: FaceSet, rows: Sequence[int]) -> Tensor:
    pictures = faces.pictures(rows)
    return (pictures[:, :1] if faces.grey else pictures).flatten(1).float() / 255


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


def _itq(train: Tensor, n_bits: int) -> Callable[[Tensor], Tensor]:
    import faiss

    itq = faiss.ITQTransform(train.shape[1], n_bits, True)
    itq.train(train.numpy())
    return lambda x: torch.from_numpy(np.ascontiguousarray(itq.apply(x.contiguous().numpy())))
