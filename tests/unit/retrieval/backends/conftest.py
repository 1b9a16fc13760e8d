"""Where the tests of Milvus store codes: in a milvus-lite file, and on a server (`make test-milvus`)."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from milvus_server import PROGRAM, MilvusServer


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A running server, which a test may kill and start again."""
    if not PROGRAM.exists():
        pytest.skip(f"needs a Milvus server, {PROGRAM}: make test-milvus installs it")
    server = MilvusServer(tmp_path_factory.mktemp("milvus_server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of Milvus."""
    if request.param == "server":
        return request.getfixturevalue("milvus_server").uri
    if find_spec("milvus_lite") is None:
        pytest.skip("milvus-lite has no wheel for this system")
    return str(tmp_path_factory.mktemp("milvus") / "codes.db")
