"""Face videos and face pictures as short binary codes in one Hamming space."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facereel.models import VideoHasher

__version__ = "0.1.0"
__all__ = ["VideoHasher", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `facereel --help` does not need it.
    if name == "VideoHasher":
        from facereel.models import VideoHasher

        return VideoHasher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
