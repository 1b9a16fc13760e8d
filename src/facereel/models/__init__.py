"""Encoder, pooling, head, and the `VideoHasher` that joins them: plain torch."""

from facereel.models.covariance_pooling import (
    GaussianPooling,
    LogCovariancePooling,
    MeanLogCovariancePooling,
    SqrtCovariancePooling,
)
from facereel.models.dlib_resnet import DLIB_MEAN, DLIB_STD, DlibResNet
from facereel.models.encoder import CasiaEncoder, TorchvisionEncoder
from facereel.models.fitted_head import FittedHead, ItqHead, LshHead, WhitenedItqHead
from facereel.models.hasher import VideoHasher
from facereel.models.head import SeparateHeads, SharedHead
from facereel.models.mobilefacenet import MobileFaceNet
from facereel.models.pooling import AttentionPooling, GeMPooling, MaxPooling, MeanPooling
from facereel.models.preprocess import Preprocess
from facereel.models.pretrained import pretrained_hasher
from facereel.models.rotation_head import RotationHead
from facereel.models.spherical_augment import AugmentedFeatures, LabelledFeatures, SphericalAugment, WholeBatch

__all__ = [
    "DLIB_MEAN",
    "DLIB_STD",
    "AttentionPooling",
    "AugmentedFeatures",
    "CasiaEncoder",
    "DlibResNet",
    "FittedHead",
    "GaussianPooling",
    "GeMPooling",
    "ItqHead",
    "LabelledFeatures",
    "LogCovariancePooling",
    "LshHead",
    "MaxPooling",
    "MeanLogCovariancePooling",
    "MeanPooling",
    "MobileFaceNet",
    "Preprocess",
    "RotationHead",
    "SeparateHeads",
    "SharedHead",
    "SphericalAugment",
    "SqrtCovariancePooling",
    "TorchvisionEncoder",
    "VideoHasher",
    "WhitenedItqHead",
    "WholeBatch",
    "pretrained_hasher",
]
