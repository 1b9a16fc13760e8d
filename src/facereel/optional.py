"""Packages that an extra installs."""

from __future__ import annotations

from types import ModuleType

from facereel.errors import UserError


def import_faiss() -> ModuleType:
    """FAISS, for the CPU or the GPU.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError("FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')") from error
    return faiss


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """The modules `onnx` and `onnxruntime`.

    Raises:
        UserError: if they, or onnxscript, which PyTorch's exporter needs, are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'facereel[export]'") from error
    return onnx, onnxruntime
