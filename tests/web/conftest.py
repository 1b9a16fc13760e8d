"""A server of its own process with an index of drawn people, and a real browser that must not complain."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from drawn_archive import make_index
from drawn_people import draw_image
from serving import ARGUMENTS, CHROMIUM, serving

pytest.importorskip("nicegui", reason="the search page needs the extra web: pip install 'facereel[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """The folder with videos/ and index/."""
    return make_index(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def temporary(tmp_path_factory) -> Path:
    """Where the server at `address` keeps its temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="session")
def address(drawn, temporary) -> Iterator[str]:
    with serving(drawn / "index", temporary=temporary) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.fail("needs Chromium: apt install chromium, or CHROMIUM=/path/to/chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open an address in a browser of its own; at the end there was no error and no request to another host."""
    contexts, errors, hosts, own = [], [], set(), set()

    def open_it(address: str, width: int = 1360, height: int = 900, wait: bool = True, **how):
        context = browser.new_context(viewport={"width": width, "height": height}, **how)
        context.set_default_timeout(120_000)  # a busy machine takes its time
        contexts.append(context)
        page = context.new_page()
        own.add(urlsplit(address).netloc)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
        page.goto(address)
        if wait:
            page.get_by_role("status").wait_for()
        page.errors = errors
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert errors == []
    # Images within the page (data:) and from the page itself (blob:) have no host.
    assert hosts - own - {""} == set()


@pytest.fixture
def photo(tmp_path):
    """A function that draws people into a photo."""
    import cv2

    def draw(*names: str, file: str = "photo.jpg", **how) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        ok, content = cv2.imencode(".png" if path.suffix == ".png" else ".jpg", draw_image(*names, **how))
        assert ok
        path.write_bytes(content.tobytes())
        return path

    return draw
