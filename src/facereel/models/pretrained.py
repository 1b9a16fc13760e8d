"""A model that needs no training."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from facereel.errors import UserError
from facereel.models.encoders.dlib_resnet import DLIB_MEAN, DLIB_STD
from facereel.models.encoders.sface_weights import find_pretrained
from facereel.models.hasher import VideoHasher

# Cells on a side of the noise grids: from blobs as large as a face to fine grain.
_NOISE_CELLS = (5, 10, 20, 40, 80, 160)
_NOISE_IMAGES = 8
_NOISE_SIDE = 160


# For each encoder the same preprocessing as in configs/encoder.
_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sface": ("SFaceEncoder", {"size": 112, "margin": 1.2, "mean": (0.5,) * 3, "std": (0.50196,) * 3}),
    "dlib": (
        "DlibResNet",
        {"size": 150, "margin": 1.05, "vertical_offset": 0.15, "mean": DLIB_MEAN, "std": DLIB_STD},
    ),
}


def default_encoder() -> str:
    """Return "sface", or "dlib" if the file with SFace's weights is not installed."""
    try:
        find_pretrained()
    except UserError:
        return "dlib"
    return "sface"


def pretrained_hasher(
    n_bits: int = 256, encoder: str = "sface", weights: str = "pretrained", seed: int = 0
) -> VideoHasher:
    """Build a model that needs no training: a pretrained encoder, mean pooling, and a `RotationHead`.

    dlib's features of all faces point in similar directions, so without a center most bits would be equal for everyone.
    Its center is the mean feature of noise images, so no faces are needed. SFace's features need no center. Both are
    replaced when the codes are fitted to an index.

    Args:
        n_bits: K, the length of a code.
        encoder: "sface" (Apache-2.0; its training data is not documented) or "dlib" (CC0).
        weights: the argument `weights` of `SFaceEncoder` or `DlibResNet`.
        seed: random seed of the rotation and the noise.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UserError: if the encoder is unknown, or its weights are missing.
    """
    if encoder not in _PARTS:
        raise UserError(f"encoder={encoder}: must be one of {', '.join(_PARTS)}")
    name, preprocess = _PARTS[encoder]
    config: dict[str, Any] = {
        "preprocess": {"_target_": "facereel.models.Preprocess", **preprocess},
        "encoder": {"_target_": f"facereel.models.{name}", "weights": weights},
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.RotationHead", "n_bits": n_bits, "seed": seed},
    }
    model = VideoHasher(config).eval()
    if encoder == "dlib":
        with torch.inference_mode():
            features = torch.cat([model.features(images) for images in _noise(seed)])
        model.head.center.copy_(normalize(features, dim=1).mean(dim=0))
    return model


def _noise(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = []
    for cells in _NOISE_CELLS:
        grid = torch.rand(_NOISE_IMAGES, 3, cells, cells, generator=generator)
        images.append(interpolate(grid, (_NOISE_SIDE, _NOISE_SIDE), mode="bicubic").clamp(0, 1))
    return images
