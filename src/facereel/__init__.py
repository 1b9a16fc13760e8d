"""Face videos and face images as short binary codes in one Hamming space."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facereel.api import Evaluation, Run, evaluate, index_videos, train
    from facereel.functional import log_covariance
    from facereel.models import VideoHasher
    from facereel.retrieval.code_index import CodeIndex
    from facereel.retrieval.face_search import FaceSearch
    from facereel.retrieval.track_index import TrackIndex
    from facereel.training.data_module import FaceDataModule
    from facereel.training.hashing_module import HashingModule

__version__ = "0.1.0"
__all__ = [
    "CodeIndex",
    "Evaluation",
    "FaceDataModule",
    "FaceSearch",
    "HashingModule",
    "Run",
    "TrackIndex",
    "VideoHasher",
    "__version__",
    "evaluate",
    "index_videos",
    "log_covariance",
    "train",
]

# Imported on first use, since torch takes seconds to import.
_MODULES = {
    "CodeIndex": "facereel.retrieval.code_index",
    "Evaluation": "facereel.api",
    "FaceDataModule": "facereel.training.data_module",
    "FaceSearch": "facereel.retrieval.face_search",
    "HashingModule": "facereel.training.hashing_module",
    "Run": "facereel.api",
    "TrackIndex": "facereel.retrieval.track_index",
    "VideoHasher": "facereel.models",
    "evaluate": "facereel.api",
    "index_videos": "facereel.api",
    "log_covariance": "facereel.functional",
    "train": "facereel.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
