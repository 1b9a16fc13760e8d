import os
import resource
from pathlib import Path

import pytest
import torch
from prepared_faces import prepare, trees  # noqa: F401

from facereel.evaluation import charts

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_key(tmp_path_factory):
    """The user's key of what they make is not made, or used, by tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _charts_are_not_drawn():
    """It is a seventh of a run; tests/evaluation/test_report.py draws, and runs in processes of their own do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "_data_uri", lambda figure: "data:image/svg+xml;base64,")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces beside the checkout; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("FACEREEL_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"needs the real faces in {path} (set FACEREEL_SHARED to where they are)")
    return path


@pytest.fixture
def small_files():
    """From a call on no file of this process may be larger: a full disk, but for the error's number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
