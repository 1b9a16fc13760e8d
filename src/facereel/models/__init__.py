"""Encoder, pooling, head, and the `VideoHasher` that joins them: plain torch."""

from facereel.models.encoder import CasiaEncoder, TorchvisionEncoder
from facereel.models.hasher import VideoHasher
from facereel.models.head import SeparateHeads, SharedHead
from facereel.models.pooling import LogCovariancePooling, MaxPooling, MeanPooling
from facereel.models.preprocess import Preprocess
from facereel.models.spherical_augment import LabelledFeatures, SphericalAugment

__all__ = [
    "CasiaEncoder",
    "LabelledFeatures",
    "LogCovariancePooling",
    "MaxPooling",
    "MeanPooling",
    "Preprocess",
    "SeparateHeads",
    "SharedHead",
    "SphericalAugment",
    "TorchvisionEncoder",
    "VideoHasher",
]
