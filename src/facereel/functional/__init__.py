"""Pure tensor functions that run on any device."""

from facereel.functional.asymmetric import asymmetric_distance
from facereel.functional.average_precision import (
    average_precision,
    distance_histograms,
    expected_recall_at_k,
    hamming_histograms,
    mean_average_precision,
)
from facereel.functional.discriminants import linear_discriminants
from facereel.functional.hamming import hamming_distance, pack_codes, unpack_codes
from facereel.functional.log_covariance import log_covariance, sqrt_covariance
from facereel.functional.spherical import spherical_congruence, spherical_transform, translation_transform
from facereel.functional.symmetric import half_unvectorize, half_vectorize

__all__ = [
    "asymmetric_distance",
    "average_precision",
    "distance_histograms",
    "expected_recall_at_k",
    "half_unvectorize",
    "half_vectorize",
    "hamming_distance",
    "hamming_histograms",
    "linear_discriminants",
    "log_covariance",
    "mean_average_precision",
    "pack_codes",
    "spherical_congruence",
    "spherical_transform",
    "sqrt_covariance",
    "translation_transform",
    "unpack_codes",
]
