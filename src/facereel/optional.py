"""Packages that an extra installs."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from types import ModuleType, SimpleNamespace

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


def import_pillow_heif() -> ModuleType:
    """pillow_heif, or pi_heif, which is the same without an encoder.

    Raises:
        UserError: if neither is installed.
    """
    try:
        return import_module("pillow_heif")
    except ImportError:
        with suppress(ImportError):
            return import_module("pi_heif")
    raise UserError("pi-heif is not installed: pip install 'facereel[heif]'")


def import_pymilvus() -> ModuleType:
    """The client of Milvus, and milvus-lite behind it if that is installed.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import pymilvus
    except ImportError as error:
        raise UserError("pymilvus is not installed: pip install 'facereel[milvus]'") from error
    # What goes wrong is said once, by us; it would log each failed call with its traceback.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with suppress(ImportError):
        _import_milvus_lite()
    return pymilvus


def _import_milvus_lite() -> None:
    """milvus-lite 2.5.1 asks pkg_resources for its version, which setuptools no longer has since 82."""
    try:
        import_module("milvus_lite")
    except ModuleNotFoundError as error:
        if error.name != "pkg_resources":
            raise
        stand_in = ModuleType("pkg_resources")
        stand_in.DistributionNotFound = LookupError  # type: ignore[attr-defined]
        stand_in.get_distribution = lambda name: SimpleNamespace(version=version(name))  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in
        try:
            import_module("milvus_lite")
        finally:
            del sys.modules["pkg_resources"]


def import_ray() -> ModuleType:
    """Ray with Ray Data; it sends no statistics of its use, and keeps its own remarks to its log files.

    Raises:
        UserError: if it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")  # a busy machine takes longer than Ray's 30
    try:
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'facereel[ray]'") from error
    return ray
