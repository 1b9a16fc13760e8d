"""With a token nothing is to be had without it."""

import re
from urllib.request import urlopen

import pytest
from search_page import played_from, status
from serving import serving

TOKEN = "drawn-people-only"


@pytest.fixture(scope="module")
def guarded(drawn):
    with serving(drawn / "index", "--token", TOKEN) as address:
        yield address


def test_the_address_with_the_token_opens_everything(open_page, guarded):
    assert guarded.endswith(f"/?token={TOKEN}")
    page = open_page(guarded)
    # It stays neither in the address bar nor where scripts see it.
    assert TOKEN not in page.url
    assert TOKEN not in page.evaluate("document.cookie + document.documentElement.outerHTML")
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("link", name="People").first.click()
    status(page, "4 groups without a name.")
    page.get_by_role("link", name="Find Group 1 in all videos").click()
    status(page, "Probably in 2 videos")
    page.locator("button.result").first.click()
    played_from(page)


@pytest.mark.parametrize("path", ["", "?token=wrong", "people", "media/thumbnail/1", "media/video/1"])
def test_nothing_without_it(browser, guarded, path):
    page = browser.new_page()
    answer = page.goto(guarded.split("?")[0] + path)
    assert answer.status == 401
    assert "requires a token" in page.locator("body").inner_text()
    page.close()


def test_no_websocket_without_it(browser, open_page, guarded, address):
    bare = guarded.split("?")[0]
    page = browser.new_page()
    page.goto(bare)
    opened = page.evaluate(
        "(url) => new Promise((done) => { const s = new WebSocket(url); s.onopen = () => done(true);"
        " s.onerror = () => done(false); })",
        bare.replace("http", "ws") + "_nicegui_ws/socket.io/?EIO=4&transport=websocket",
    )
    page.close()
    assert opened is False


def test_beyond_this_machine_there_is_always_one(drawn):
    with serving(drawn / "index", "--host", "0.0.0.0") as address:
        port, token = re.search(r":(\d+)/\?token=([\w-]{32})$", address).groups()
        assert urlopen(f"http://127.0.0.1:{port}/?token={token}").status == 200
        with pytest.raises(OSError, match="401"):
            urlopen(f"http://127.0.0.1:{port}/")
