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
