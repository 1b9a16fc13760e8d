"""A model that needs no training and no one's faces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from facereel.models.dlib_resnet import DLIB_MEAN, DLIB_STD
from facereel.models.hasher import VideoHasher

# Pictures of noise are drawn on grids of so many cells a side, from blobs as large as a face to grain.
_NOISE_CELLS = (5, 10, 20, 40, 80, 160)
_NOISE_PICTURES = 32
_NOISE_SIDE = 160

# Of comparisons of two people so many are nearer than this distance, by which `FaceSearch.threshold` tells who is
# probably in no video: LFW's stills of 322 people against 861 clips of YouTube Faces, scripts/evaluate_face_search.py.
CALIBRATION = ((1e-1, 0.2718), (1e-2, 0.1953), (1e-3, 0.1484), (1e-4, 0.1157), (1e-5, 0.0946))


def pretrained_hasher(n_bits: int = 256, weights: str = "pretrained", seed: int = 0) -> VideoHasher:
    """Build a model that needs no training: dlib's face network (CC0), mean pooling, and a `RotationHead`.

    Its features of all faces lie to one side: in signs of their rotation most bits would be the same for everyone. The
    centre is where the network puts pictures of noise, so that nothing of it stems from anyone's face. On YouTube Faces
    and LFW that regains three quarters of what the mean of the faces themselves would bring: see docs/search.md.

    Args:
        n_bits: K, the length of a code.
        weights: of `DlibResNet`.
        seed: of the rotation and of the noise.

    Raises:
        UserError: if the weights are absent.
    """
    config: dict[str, Any] = {
        # As configs/encoder/dlib.yaml.
        "preprocess": {
            "_target_": "facereel.models.Preprocess",
            "size": 150,
            "margin": 1.05,
            "shift": 0.15,
            "mean": DLIB_MEAN,
            "std": DLIB_STD,
        },
        "encoder": {"_target_": "facereel.models.DlibResNet", "weights": weights},
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.RotationHead", "n_bits": n_bits, "seed": seed},
    }
    model = VideoHasher(config).eval()
    with torch.inference_mode():
        features = torch.cat([model.features(pictures) for pictures in _noise(seed)])
    model.head.centre.copy_(normalize(features, dim=1).mean(dim=0))
    return model


def _noise(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for cells in _NOISE_CELLS:
        grid = torch.rand(_NOISE_PICTURES, 3, cells, cells, generator=generator)
        pictures.append(interpolate(grid, (_NOISE_SIDE, _NOISE_SIDE), mode="bicubic").clamp(0, 1))
    return pictures
