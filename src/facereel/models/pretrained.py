"""A model that needs no training."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from facereel.models.encoders.dlib_resnet import DLIB_MEAN, DLIB_STD
from facereel.models.hasher import VideoHasher

# Cells on a side of the noise grids: from blobs as large as a face to fine grain.
_NOISE_CELLS = (5, 10, 20, 40, 80, 160)
_NOISE_IMAGES = 32
_NOISE_SIDE = 160

# False match rates and distances, from which `FaceSearch.threshold` is computed. Measured on LFW stills of 322 people
# against 861 clips of YouTube Faces by scripts/benchmarks/evaluate_face_search.py.
CALIBRATION = ((1e-1, 0.2718), (1e-2, 0.1953), (1e-3, 0.1484), (1e-4, 0.1157), (1e-5, 0.0946))


def pretrained_hasher(n_bits: int = 256, weights: str = "pretrained", seed: int = 0) -> VideoHasher:
    """Build a model that needs no training: dlib's face network (CC0), mean pooling, and a `RotationHead`.

    The network's features of all faces point in similar directions, so without centering most bits would be equal for
    everyone. The center is the mean feature of noise images, so no faces are needed. On YouTube Faces and LFW it
    improves results three quarters as much as the mean of the faces themselves: see docs/results/search_accuracy.md.

    Args:
        n_bits: K, the length of a code.
        weights: the argument `weights` of `DlibResNet`.
        seed: random seed of the rotation and the noise.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UserError: if the weights are missing.
    """
    config: dict[str, Any] = {
        # The same as in configs/encoder/dlib.yaml.
        "preprocess": {
            "_target_": "facereel.models.Preprocess",
            "size": 150,
            "margin": 1.05,
            "vertical_offset": 0.15,
            "mean": DLIB_MEAN,
            "std": DLIB_STD,
        },
        "encoder": {"_target_": "facereel.models.DlibResNet", "weights": weights},
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.RotationHead", "n_bits": n_bits, "seed": seed},
    }
    model = VideoHasher(config).eval()
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
