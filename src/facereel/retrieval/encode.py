"""Encode face crops."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.data.crop_table import outer_margin
from facereel.data.face_set import window
from facereel.errors import UserError
from facereel.models import RecognizabilityPooling, RotationHead, VideoHasher
from facereel.video.detector import Image

# Number of crops in a pass of the encoder on a GPU.
_CROPS_AT_ONCE = 512


def check_margin(model: VideoHasher, margin: float) -> None:
    """Check that crops are wide enough for a model.

    Args:
        model: the model.
        margin: margin of the crops.

    Raises:
        UserError: if the model needs a larger margin.
    """
    needed = outer_margin(model.preprocess.margin, model.preprocess.vertical_offset)
    if margin < needed:
        raise UserError(
            f"the crops have a margin of {margin:g} but the model needs {needed:g}: run facereel ingest or prepare "
            f"again with a margin of {needed:g}"
        )


def to_images(crops: Sequence[Image], margin: float, model: VideoHasher) -> Tensor:
    """Cut the part of crops that a model needs.

    Args:
        crops: (S, S, 3) BGR uint8 each, from `align_face`.
        margin: margin of the crops.
        model: the model.

    Returns:
        (B, 3, s, s) RGB uint8.
    """
    stacked = torch.from_numpy(np.stack(crops)[:, :, :, ::-1].transpose(0, 3, 1, 2).copy())
    return window(stacked, model.preprocess.margin / margin, model.preprocess.vertical_offset)


class EncodedFace(NamedTuple):
    """What a model makes of a clip or a still."""

    code: Tensor
    """(K,) bool."""
    scores: Tensor
    """(K,) float in 0..1."""
    feature: Tensor | None
    """(D,) float of length 1, the pooled frames; None if an index of this model does not store features."""
    is_too_poor: bool = False
    """Whether a still does not show who it is; see `RecognizabilityPooling.is_too_poor`."""


def has_features(model: VideoHasher) -> bool:
    """Return whether an index of this model can store features: nothing in its codes is learned from labeled faces."""
    return isinstance(model.head, RotationHead)


def have_same_features(model: VideoHasher, other: VideoHasher) -> bool:
    """Return whether two models make the same features, so that tracks encoded by one and the other can be compared.

    Args:
        model: a model with `has_features`.
        other: another one.
    """
    settings, other_settings = (
        # Weights with the same content may be in different files, and the head makes codes of the features.
        {part: {k: v for k, v in of.items() if k != "weights"} for part, of in one.config.items() if part != "head"}
        for one in (model, other)
    )
    return settings == other_settings and model.encoder_fingerprint() == other.encoder_fingerprint()


def encode_clip(crops: Sequence[Image], margin: float, model: VideoHasher) -> EncodedFace:
    """Encode the crops of a track.

    Args:
        crops: (S, S, 3) BGR uint8 each, from `align_face`.
        margin: margin of the crops.
        model: the model, in evaluation mode.

    Returns:
        The encoded track.

    Raises:
        UserError: if the model's scores are not finite.
    """
    return encode_crops(to_images(crops, margin, model), model)


def encode_crops(images: Tensor, model: VideoHasher) -> EncodedFace:
    """Encode a clip.

    Args:
        images: (T, 3, s, s) RGB uint8.
        model: the model, in evaluation mode.

    Returns:
        The encoded clip.

    Raises:
        UserError: if the model's scores are not finite.
    """
    return _encode_together([images], model)[0]


def encode_clips(clips: Iterable[Tensor], model: VideoHasher, at_once: int | None = None) -> Iterator[EncodedFace]:
    """Encode clips, several in one pass of the encoder.

    Args:
        clips: (T, 3, s, s) RGB uint8 each.
        model: the model, in evaluation mode.
        at_once: number of crops from which a pass starts. None chooses for the model's device: 512 on a GPU, and one
            clip after the other on a CPU, where larger passes are not faster.

    Yields:
        The encoded clips, in order.

    Raises:
        UserError: if the model's scores are not finite.
    """
    enough = at_once or (1 if model.device.type == "cpu" else _CROPS_AT_ONCE)
    waiting: list[Tensor] = []
    for clip in clips:
        waiting.append(clip)
        if sum(map(len, waiting)) >= enough:
            yield from _encode_together(waiting, model)
            waiting = []
    if waiting:
        yield from _encode_together(waiting, model)


@torch.inference_mode()
def _encode_together(clips: Sequence[Tensor], model: VideoHasher) -> list[EncodedFace]:
    features = model.prepare_inference().features(_floats(torch.cat([*clips]), model))
    parts = torch.split(features, [len(clip) for clip in clips])
    pooled = [model.pooling(frames[None]) for frames in parts]
    return [_checked(model.hash_pooled(one), one, model) for one in pooled]


@torch.inference_mode()
def encode_still(crop: Image, margin: float, model: VideoHasher) -> EncodedFace:
    """Encode a still.

    Args:
        crop: (S, S, 3) BGR uint8, from `align_face`.
        margin: margin of the crop.
        model: the model, in evaluation mode.

    Returns:
        The encoded still.

    Raises:
        UserError: if the model's scores are not finite.
    """
    # `prepare_inference` takes as long as it saves on a hundred stills.
    features = model.features(_floats(to_images([crop], margin, model), model))
    pooled = model.pooling(features[:, None]) if has_features(model) else features
    return _checked(model.hash_stills(features), pooled, model)._replace(is_too_poor=is_too_poor(features, model)[0])


def is_too_poor(features: Sequence[Tensor] | Tensor, model: VideoHasher) -> list[bool]:
    """Tell which features are of faces too poor to tell who it is; see `RecognizabilityPooling.is_too_poor`.

    Args:
        features: N features (D,) of stills, or pooled features of tracks.
        model: the model that made them.

    Returns:
        A value for each; all False if the model does not know.
    """
    pooling = model.pooling
    if not isinstance(pooling, RecognizabilityPooling) or not len(features):
        return [False] * len(features)
    poor: list[bool] = pooling.is_too_poor(torch.stack([*features]).to(pooling.center)).tolist()
    return poor


def hash_feature(feature: Tensor, model: VideoHasher) -> EncodedFace:
    """Encode a stored feature, or the mean of several.

    Args:
        feature: (D,) float; its length does not matter.
        model: a model with `has_features`.

    Returns:
        The encoded face.

    Raises:
        UserError: if the model's scores are not finite.
    """
    with torch.inference_mode():
        device = model.device
        return _checked(model.hash_pooled(feature[None].to(device)), feature[None], model)


def _checked(scores: Tensor, pooled: Tensor, model: VideoHasher) -> EncodedFace:
    if not scores.isfinite().all():
        raise UserError("the model's scores of a face are not finite: its weights are too large; use another model")
    feature = normalize(pooled, dim=1)[0].cpu() if has_features(model) else None
    return EncodedFace((scores > 0.5)[0].cpu(), scores[0].cpu(), feature)


def _floats(images: Tensor, model: VideoHasher) -> Tensor:
    return images.to(model.device).float() / 255
