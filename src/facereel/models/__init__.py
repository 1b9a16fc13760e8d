"""`VideoHasher` and its parts, in plain PyTorch: encoder, pooling and head."""

from facereel.models.encoders.casia import CasiaEncoder
from facereel.models.encoders.dlib_resnet import DLIB_MEAN, DLIB_STD, DlibResNet
from facereel.models.encoders.facenet import FaceNet
from facereel.models.encoders.iresnet import IResNet
from facereel.models.encoders.mobilefacenet import MobileFaceNet
from facereel.models.encoders.onnx_encoder import OnnxEncoder
from facereel.models.encoders.sface import SFaceEncoder
from facereel.models.encoders.torchvision_encoder import TorchvisionEncoder
from facereel.models.hasher import VideoHasher
from facereel.models.heads.fitted import FittedHead, ItqHead, LdaItqHead, LshHead
from facereel.models.heads.linear import SeparateHeads, SharedHead
from facereel.models.heads.rotation import RotationHead
from facereel.models.pooling.covariance import (
    AttentionLogCovariancePooling,
    GaussianPooling,
    LogCovariancePooling,
    MeanLogCovariancePooling,
    SqrtCovariancePooling,
)
from facereel.models.pooling.first_order import AttentionPooling, GeMPooling, MaxPooling, MeanPooling
from facereel.models.pooling.projected import ProjectedPooling
from facereel.models.pooling.recognizability import RecognizabilityPooling, recognizability
from facereel.models.preprocess import Preprocess
from facereel.models.pretrained import default_encoder, pretrained_hasher
from facereel.models.spherical_augment import AugmentedFeatures, LabeledFeatures, SphericalAugment, WholeBatch
from facereel.models.unrecognizable import PHOTO_LIMITS, center_on_unrecognizable, unrecognizable_faces

__all__ = [
    "DLIB_MEAN",
    "DLIB_STD",
    "PHOTO_LIMITS",
    "AttentionLogCovariancePooling",
    "AttentionPooling",
    "AugmentedFeatures",
    "CasiaEncoder",
    "DlibResNet",
    "FaceNet",
    "FittedHead",
    "GaussianPooling",
    "GeMPooling",
    "IResNet",
    "ItqHead",
    "LabeledFeatures",
    "LdaItqHead",
    "LogCovariancePooling",
    "LshHead",
    "MaxPooling",
    "MeanLogCovariancePooling",
    "MeanPooling",
    "MobileFaceNet",
    "OnnxEncoder",
    "Preprocess",
    "ProjectedPooling",
    "RecognizabilityPooling",
    "RotationHead",
    "SFaceEncoder",
    "SeparateHeads",
    "SharedHead",
    "SphericalAugment",
    "SqrtCovariancePooling",
    "TorchvisionEncoder",
    "VideoHasher",
    "WholeBatch",
    "center_on_unrecognizable",
    "default_encoder",
    "pretrained_hasher",
    "recognizability",
    "unrecognizable_faces",
]
