"""A model that needs no training."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from facereel.errors import UserError
from facereel.models.encoders.dlib_resnet import DLIB_MEAN, DLIB_STD
from facereel.models.encoders.onnx_network import USUAL_SIDE, read_graph
from facereel.models.encoders.sface_weights import MODULE
from facereel.models.hasher import VideoHasher
from facereel.models.unrecognizable import PHOTO_LIMITS, center_on_unrecognizable

# Encoders that `pretrained_hasher` knows by name; others are ONNX files.
ENCODERS = ("sface", "dlib")

# Cells on a side of the noise grids: from blobs as large as a face to fine grain.
_NOISE_CELLS = (5, 10, 20, 40, 80, 160)
_NOISE_IMAGES = 8
_NOISE_SIDE = 160


def default_encoder() -> str:
    """Return "sface", or "dlib" if the package with SFace's weights is not installed."""
    return "dlib" if importlib.util.find_spec(MODULE) is None else "sface"


def pretrained_hasher(
    n_bits: int = 256, encoder: str | Path = "sface", weights: str = "pretrained", seed: int = 0
) -> VideoHasher:
    """Build a model that needs no training: a pretrained encoder, a `RecognizabilityPooling` and a `RotationHead`.

    dlib's features of all faces point in similar directions, so without a center most bits would be equal for everyone.
    Its center is the mean feature of noise images, so no faces are needed. Other encoders get no center. Both are
    replaced when the codes are fitted to an index.

    Args:
        n_bits: K, the length of a code.
        encoder: "sface" for OpenCV Zoo's SFace (Apache-2.0; its training data is not documented), "dlib" for dlib's
            face network (CC0), or the path of an ONNX file, see `OnnxEncoder`.
        weights: the argument `weights` of `DlibResNet` or `SFaceEncoder`; not used for an ONNX file.
        seed: random seed of the rotation and the noise.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UserError: if the encoder is unknown, or its weights are missing or do not fit.
    """
    preprocess, part = _parts(str(encoder), weights)
    config: dict[str, Any] = {
        "preprocess": {"_target_": "facereel.models.Preprocess", **preprocess},
        "encoder": part,
        "pooling": {
            "_target_": "facereel.models.RecognizabilityPooling",
            "photo_limit": PHOTO_LIMITS.get(str(encoder)),
        },
        "head": {"_target_": "facereel.models.RotationHead", "n_bits": n_bits, "seed": seed},
    }
    model = VideoHasher(config).eval()
    center_on_unrecognizable(model)
    if encoder == "dlib":
        with torch.inference_mode():
            features = torch.cat([model.features(images) for images in _noise(seed)])
        model.head.center.copy_(normalize(features, dim=1).mean(dim=0))
    return model


def is_known_encoder(encoder: str) -> bool:
    """Return whether `pretrained_hasher` accepts an encoder: a name, or a path with the ending .onnx."""
    return encoder in ENCODERS or Path(encoder).suffix.lower() == ".onnx"


def _parts(encoder: str, weights: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `Preprocess` and the encoder, the same as in configs/encoder."""
    usual = {"size": 112, "margin": 1.2, "mean": (0.5, 0.5, 0.5)}
    if encoder == "dlib":
        crop = {"size": 150, "margin": 1.05, "vertical_offset": 0.15, "mean": DLIB_MEAN, "std": DLIB_STD}
        return crop, {"_target_": "facereel.models.DlibResNet", "weights": weights}
    if encoder == "sface":
        return {**usual, "std": (0.50196,) * 3}, {"_target_": "facereel.models.SFaceEncoder", "weights": weights}
    if not is_known_encoder(encoder):
        raise UserError(f"encoder={encoder}: must be {', '.join(ENCODERS)}, or the path of an .onnx file")
    crop = {**usual, "size": read_graph(encoder).side or USUAL_SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return crop, {"_target_": "facereel.models.OnnxEncoder", "weights": encoder}


def _noise(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = []
    for cells in _NOISE_CELLS:
        grid = torch.rand(_NOISE_IMAGES, 3, cells, cells, generator=generator)
        images.append(interpolate(grid, (_NOISE_SIDE, _NOISE_SIDE), mode="bicubic").clamp(0, 1))
    return images
