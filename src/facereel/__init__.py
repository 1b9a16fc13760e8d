"""Face videos and face images as short binary codes in one Hamming space."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facereel.functional import log_covariance
    from facereel.models import VideoHasher
    from facereel.retrieval.code_index import CodeIndex
    from facereel.retrieval.face_search import FaceSearch
    from facereel.retrieval.track_index import TrackIndex

__version__ = "0.1.0"
__all__ = ["CodeIndex", "FaceSearch", "TrackIndex", "VideoHasher", "__version__", "log_covariance"]

# Imported on first use, since torch takes seconds to import.
_MODULES = {
    "CodeIndex": "facereel.retrieval.code_index",
    "FaceSearch": "facereel.retrieval.face_search",
    "TrackIndex": "facereel.retrieval.track_index",
    "VideoHasher": "facereel.models",
    "log_covariance": "facereel.functional",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
