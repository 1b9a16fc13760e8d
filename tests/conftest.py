"""Fixtures for all tests, and the markers that a test gets by where it is and what it uses."""

import copy
import functools
import importlib.metadata
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from prepared_faces import NO_DETECTOR, make_trees
from repository import REPOSITORY

from facereel import models
from facereel.evaluation import charts

WEB = REPOSITORY / "tests" / "web"
INTEGRATION = REPOSITORY / "tests" / "integration"

# Lightning reads the metadata of all packages for each trainer. It takes this function when it is imported.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[assignment]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests on real faces, which use the fixture `shared`, those of whole commands, and those in a browser."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_faces)
        if item.path.is_relative_to(WEB):
            item.add_marker(pytest.mark.web)
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts with PyTorch's random numbers at the same place."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither make nor use the key in the user's configuration directory, which signs what facereel writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _charts_are_not_drawn() -> Iterator[None]:
    """Drawing takes a fifth of a run. tests/unit/evaluation/test_report.py draws, and commands in processes do."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("precision_recall", "distance_histograms", "training_curves", "roc"):
            patch.setattr(charts, name, lambda _: "data:image/svg+xml;base64,")
        yield


@pytest.fixture(autouse=True, scope="session")
def _pretrained_models_are_copied() -> Iterator[None]:
    """A pretrained model is made once, and copied."""
    real = models.pretrained_hasher
    made = functools.cache(real)

    def pretrained_hasher(**options: Any) -> models.VideoHasher:
        is_known = options.get("encoder", "sface") in ("sface", "dlib")
        return copy.deepcopy(made(**options)) if is_known else real(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "pretrained_hasher", pretrained_hasher)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces next to the checkout; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("FACEREEL_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"needs the real faces in {path} (set FACEREEL_SHARED to where they are)")
    return path


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A function after whose call no file of this process may exceed N bytes: as a full disk, but for the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces: YouTube Faces in ytf and stills in lfw. Do not change them; `make_trees` makes your own."""
    return make_trees(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def prepare(trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `facereel prepare SOURCE ROOT tmp_path/out` with options, check its exit code, and return what it printed."""

    def call(*options: object, source: str = "youtube_faces", root: Path = trees / "ytf", code: int = 0) -> Any:
        assert run("prepare", source, root, tmp_path / "out", *NO_DETECTOR, *options) == code
        return capsys.readouterr()

    return call
