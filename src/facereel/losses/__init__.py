"""One loss a file. Each is called with an `Outputs` and takes from it what it needs."""

from facereel.losses.classification import ClassificationLoss
from facereel.losses.code_classification import CodeClassificationLoss
from facereel.losses.hash_centre import HashCentreLoss
from facereel.losses.metric_learning import MetricLearningLoss
from facereel.losses.ortho_hash import OrthoHashLoss
from facereel.losses.outputs import Outputs
from facereel.losses.triplet import TripletLoss

__all__ = [
    "ClassificationLoss",
    "CodeClassificationLoss",
    "HashCentreLoss",
    "MetricLearningLoss",
    "OrthoHashLoss",
    "Outputs",
    "TripletLoss",
]
