"""The frame of every page: head, navigation, landmarks and style sheet."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from nicegui import ui

from facereel.web.tags import Tag

ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='8' fill='#0b5c5a'/>"
    "<circle cx='16' cy='13' r='5.5' fill='#fff'/><path d='M6 28a10 8 0 0 1 20 0z' fill='#fff'/></svg>"
)
# After the cookie is set, the token need not stay in the address bar and the history.
_FORGET_TOKEN = (
    "<script>{const a = new URL(location); if (a.searchParams.has('token')) "
    "{a.searchParams.delete('token'); history.replaceState(null, '', a);}}</script>"
)
_PAGES = (("/", "Search"), ("/people", "People"))


@cache
def _styles() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


@contextmanager
def page_frame(path: str, heading: str, lede: str) -> Iterator[None]:
    """Create the head, navigation and heading; elements created in the `with` block are below them.

    Args:
        path: path of the page, marked in the navigation.
        heading: h1 of the page.
        lede: sentence below the heading.
    """
    ui.add_head_html(f"{_FORGET_TOKEN}<style>{_styles()}</style>")
    client = ui.context.client
    # The library's own page element is the main landmark: the header goes before it.
    with client.layout, Tag("header", classes="bar") as header:
        Tag("a", "Skip to the content", "skip", href="#content")
        Tag("a", "facereel", "brand", href="/")
        with Tag("nav", aria_label="Pages"):
            for href, name in _PAGES:
                Tag("a", name, href=href, aria_current="page" if href == path else None)
    header.move(target_index=0)
    with Tag("div", classes="page", id="content", tabindex=-1):
        Tag("h1", heading)
        Tag("p", lede, "lede")
        yield
