"""Encode face crops."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from facereel.data.crop_table import outer_margin
from facereel.data.face_set import window
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.video.detector import Image


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


def encode_clip(crops: Sequence[Image], margin: float, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """Encode the crops of a track.

    Args:
        crops: (S, S, 3) BGR uint8 each, from `align_face`.
        margin: margin of the crops.
        model: the model.

    Returns:
        The (K,) bool code and (K,) scores in 0..1.
    """
    return encode_crops(to_images(crops, margin, model), model)


def encode_crops(images: Tensor, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """Encode a clip.

    Args:
        images: (T, 3, s, s) RGB uint8.
        model: the model.

    Returns:
        The (K,) bool code and (K,) scores in 0..1.
    """
    return _first(*model.encode_clips(_floats(images, model)[None], return_scores=True))


def encode_still(crop: Image, margin: float, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """Encode a still.

    Args:
        crop: (S, S, 3) BGR uint8, from `align_face`.
        margin: margin of the crop.
        model: the model.

    Returns:
        The (K,) bool code and (K,) scores in 0..1.
    """
    return _first(*model.encode_stills(_floats(to_images([crop], margin, model), model), return_scores=True))


def _first(codes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    if not scores.isfinite().all():
        raise UserError("the model's scores of a face are not finite: its weights are too large; use another model")
    return codes[0].cpu(), scores[0].cpu()


def _floats(images: Tensor, model: VideoHasher) -> Tensor:
    return images.to(next(model.encoder.parameters()).device).float() / 255
