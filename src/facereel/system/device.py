"""The rule that chooses the device to compute on."""

import torch

from facereel.errors import UserError


def device_type(name: str) -> str:
    """Resolve "auto" and "gpu" to a device name of PyTorch.

    "auto" is a CUDA GPU if there is one, else the CPU. Apple's MPS must be requested by name: it has no float64, in
    which the CPU and CUDA decompose covariances, so its results differ.

    Args:
        name: "auto", "gpu", or a device name of PyTorch, which is returned unchanged.

    Returns:
        The device name.

    Examples:
        >>> device_type("gpu"), device_type("mps"), device_type("cuda:1")
        ('cuda', 'mps', 'cuda:1')
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if name == "gpu" else name


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on, and check that it works before any data is read.

    Args:
        name: "auto" or "gpu" (see `device_type`), or a device name of PyTorch, such as "cpu", "cuda:1" or "mps".

    Returns:
        The device.

    Raises:
        UserError: if PyTorch cannot use the device on this machine.
    """
    try:
        device = torch.device(device_type(name))
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(
            f"device={name}: must be auto, cpu, or another device that PyTorch can use on this machine, such as cuda"
        ) from error
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device has bfloat16 instructions; without them a CPU is about 10 times slower than in float32.

    Args:
        device: the device. Only CPUs are checked.
    """
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
