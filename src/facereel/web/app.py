"""The application: pages, media, uploads, behind the guard."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import ui

from facereel.retrieval.face_search import FaceSearch
from facereel.web.frame import ICON
from facereel.web.guard import Guard, is_loopback
from facereel.web.media import routes, track_number
from facereel.web.people_page import PeoplePage
from facereel.web.search_page import SearchPage
from facereel.web.uploads import Uploads


def make_app(search: FaceSearch, uploads: Uploads, *, host: str, port: int, token: str | None) -> Guard:
    """Put the search page together, once a process: NiceGUI keeps its pages in a global application.

    Args:
        search: what is searched.
        uploads: where browsers' files go.
        host: that it is served on; on loopback no other host's name is answered to.
        port: tells its cookies from others'.
        token: that every request needs; None for no need.

    Returns:
        An ASGI application.
    """

    @ui.page("/", title="facereel: find a person in your videos", favicon=ICON)
    async def search_page(track: str = "") -> None:
        page = SearchPage(search, uploads, track_number(track))
        await ui.context.client.connected()
        await page.start()

    @ui.page("/people", title="facereel: people", favicon=ICON)
    async def people_page() -> None:
        page = PeoplePage(search.index)
        await ui.context.client.connected()
        await page.load()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.extend([*routes(search.index), *uploads.routes()])
    ui.run_with(
        app,
        title="facereel",
        favicon=ICON,
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        show_welcome_message=False,
    )
    return Guard(app, loopback=is_loopback(host), token=token, port=port)
