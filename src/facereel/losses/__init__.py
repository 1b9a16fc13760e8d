"""One loss a file. Each is called with an `Outputs` and takes from it what it needs."""

from facereel.losses.classification import ClassificationLoss
from facereel.losses.outputs import Outputs
from facereel.losses.triplet import TripletLoss

__all__ = ["ClassificationLoss", "Outputs", "TripletLoss"]
