"""Face crops to codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from facereel.data.faces import window
from facereel.data.load import outer_margin
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.video.detector import Image


def check_margin(model: VideoHasher, margin: float) -> None:
    """See that crops of a margin hold what a model wants to see.

    Raises:
        UserError: if they are narrower.
    """
    needed = outer_margin(model.preprocess.margin, model.preprocess.shift)
    if margin < needed:
        raise UserError(
            f"the crops have a margin of {margin:g} and the model needs {needed:g}: facereel ingest or prepare with "
            f"--margin {needed:g}"
        )


def to_pictures(crops: Sequence[Image], margin: float, model: VideoHasher) -> Tensor:
    """Crops as `align_face` makes them -> what a model is made for.

    Args:
        crops: (S, S, 3) BGR uint8 each.
        margin: they were cut with.
        model: whose part of them is taken.

    Returns:
        (B, 3, s, s) uint8, RGB.
    """
    stacked = torch.from_numpy(np.stack(crops)[:, :, :, ::-1].transpose(0, 3, 1, 2).copy())
    return window(stacked, model.preprocess.margin / margin, model.preprocess.shift)


def encode_clip(crops: Sequence[Image], margin: float, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """A track's crops, as `align_face` makes them -> its code (K,) bool and scores (K,) in 0..1."""
    return encode_crops(to_pictures(crops, margin, model), model)


def encode_crops(pictures: Tensor, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """A clip (T, 3, s, s) uint8 -> its code (K,) bool and scores (K,) in 0..1."""
    return _first(*model.encode_clips(_floats(pictures, model)[None], return_scores=True))


def encode_still(crop: Image, margin: float, model: VideoHasher) -> tuple[Tensor, Tensor]:
    """A picture's crop -> its code (K,) bool and scores (K,) in 0..1."""
    return _first(*model.encode_stills(_floats(to_pictures([crop], margin, model), model), return_scores=True))


def _first(codes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    if not scores.isfinite().all():
        raise UserError("the model's scores of a face are not finite: its weights are too large; use another model")
    return codes[0].cpu(), scores[0].cpu()


def _floats(pictures: Tensor, model: VideoHasher) -> Tensor:
    return pictures.to(next(model.encoder.parameters()).device).float() / 255
