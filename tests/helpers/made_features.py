"""Features of made-up people, and a model whose codes can be fitted to them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.models import VideoHasher

DIM, N_BITS = 320, 32
ABOUT = {"detector": "mtcnn", "size": 200, "margin": 1.4}


def rotation_model(seed: int = 0) -> VideoHasher:
    """A model with random weights and a `RotationHead`."""
    torch.manual_seed(0)
    return VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
            "encoder": {"_target_": "facereel.models.CasiaEncoder"},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.RotationHead", "n_bits": N_BITS, "seed": seed},
        }
    ).eval()


def feature_of(person: int, track: int, noise: float = 0.6) -> Tensor:
    """Unit vectors around a common mean, as faces have them; those of a person are near each other."""
    mean, own, other = (np.random.default_rng(seed).standard_normal(DIM) for seed in (1, 100 + person, 1000 + track))
    return normalize(torch.from_numpy(3 * mean + own + noise * other).float(), dim=0)
