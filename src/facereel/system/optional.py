"""Import packages that belong to an extra. If one is missing, a `UserError` names the extra."""

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
    """Return the module FAISS, for the CPU or the GPU; a `UserError` if it is not installed."""
    return _import("faiss", "FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')")


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """Return the modules `onnx` and `onnxruntime`.

    A `UserError` if one of them is not installed, or onnxscript, which PyTorch's exporter needs.
    """
    names = ("onnx", "onnxruntime", "onnxscript")
    onnx, runtime, _ = (
        _import(name, f"ONNX needs the package {name}: pip install 'facereel[export]'") for name in names
    )
    return onnx, runtime


def import_onnxruntime() -> tuple[ModuleType, ModuleType]:
    """Return the modules `onnx` and `onnxruntime`, which run an ONNX file; a `UserError` if one is not installed."""
    message = "running an ONNX file needs the packages onnx and onnxruntime: pip install 'facereel[export]'"
    return _import("onnx", message), _import("onnxruntime", message)


def import_onnx_reader() -> ModuleType:
    """Return the module `onnx`, which reads ONNX files; a `UserError` if it is not installed."""
    return _import("onnx", "reading an ONNX file needs the package onnx: pip install 'facereel[pretrained]'")


def import_pillow_heif() -> ModuleType:
    """Return pillow_heif, or pi_heif, the same without an encoder; a `UserError` if neither is installed."""
    with suppress(ImportError):
        return import_module("pillow_heif")
    return _import("pi_heif", "pi-heif is not installed: pip install 'facereel[heif]'")


def import_pymilvus() -> ModuleType:
    """Return pymilvus, the client of Milvus, and import milvus-lite if it is installed.

    A `UserError` if pymilvus is not installed.
    """
    pymilvus = _import("pymilvus", "pymilvus is not installed: pip install 'facereel[milvus]'")
    # We report its errors once. It would log each failed call with a traceback.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with suppress(ImportError):
        _import_milvus_lite()
    return pymilvus


def _import_milvus_lite() -> None:
    """Import milvus-lite 2.5.1, which reads its version from pkg_resources; setuptools 82 removed that module.

    Raises:
        ModuleNotFoundError: if another module is missing.
    """
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


def import_opentimelineio() -> ModuleType:
    """Return the module `opentimelineio`; a `UserError` if it or an adapter that we write with is not installed."""
    names = ("opentimelineio", "otio_cmx3600_adapter", "otio_fcp_adapter")
    found, *_ = (
        _import(name, f"timelines need the package {name}: pip install 'facereel[timeline]'") for name in names
    )
    return found


def import_ray() -> ModuleType:
    """Return the module Ray, without usage statistics, and with its messages only in its log files.

    A `UserError` if Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault(
        "RAY_gcs_server_port_wait_time_s", "120"
    )  # a busy machine takes longer than Ray's default, 30
    return _import("ray", "Ray is not installed: pip install 'facereel[ray]'")
