"""Packages that an extra installs."""

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from types import ModuleType, SimpleNamespace

from facereel.errors import UserError


def _import(module: str, message: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(message) from error


def import_faiss() -> ModuleType:
    """Import FAISS, for the CPU or the GPU.

    Raises:
        UserError: if it is not installed.
    """
    return _import("faiss", "FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')")


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """Import `onnx` and `onnxruntime`.

    Raises:
        UserError: if one of them, or onnxscript, which PyTorch's exporter needs, is not installed.
    """
    names = ("onnx", "onnxruntime", "onnxscript")
    onnx, runtime, _ = (
        _import(name, f"ONNX needs the package {name}: pip install 'facereel[export]'") for name in names
    )
    return onnx, runtime


def import_onnx_reader() -> ModuleType:
    """Import `onnx` alone, which reads ONNX files.

    Raises:
        UserError: if it is not installed.
    """
    return _import("onnx", "reading an ONNX file needs the package onnx: pip install 'facereel[pretrained]'")


def import_pillow_heif() -> ModuleType:
    """Import pillow_heif, or pi_heif, which is the same without an encoder.

    Raises:
        UserError: if neither is installed.
    """
    with suppress(ImportError):
        return import_module("pillow_heif")
    return _import("pi_heif", "pi-heif is not installed: pip install 'facereel[heif]'")


def import_pymilvus() -> ModuleType:
    """Import the client of Milvus, and milvus-lite if that is installed.

    Raises:
        UserError: if it is not installed.
    """
    pymilvus = _import("pymilvus", "pymilvus is not installed: pip install 'facereel[milvus]'")
    # We report its errors once; it would log each failed call with its traceback.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with suppress(ImportError):
        _import_milvus_lite()
    return pymilvus


def _import_milvus_lite() -> None:
    """Import milvus-lite 2.5.1, which asks pkg_resources for its version: setuptools has none since 82."""
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
    """Import Ray with Ray Data; without usage statistics, and with its own messages in its log files only.

    Raises:
        UserError: if it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")  # a busy machine takes longer than Ray's 30
    _import("ray.data", "Ray is not installed: pip install 'facereel[ray]'")
    return import_module("ray")
