"""Losses, one per file. Each is called with an `Outputs` and returns a scalar."""

from facereel.losses.classification import ClassificationLoss
from facereel.losses.code_classification import CodeClassificationLoss
from facereel.losses.hash_center import HashCenterLoss
from facereel.losses.metric_learning import MetricLearningLoss
from facereel.losses.multi_similarity import MultiSimilarityLoss
from facereel.losses.ortho_hash import OrthoHashLoss
from facereel.losses.outputs import Outputs
from facereel.losses.triplet import TripletLoss

__all__ = [
    "ClassificationLoss",
    "CodeClassificationLoss",
    "HashCenterLoss",
    "MetricLearningLoss",
    "MultiSimilarityLoss",
    "OrthoHashLoss",
    "Outputs",
    "TripletLoss",
]
