"""The web application: pages, media and uploads, protected by the guard."""

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
    """Build the ASGI application. Call it once per process: NiceGUI keeps its pages in a global application.

    Args:
        search: the index.
        uploads: store of the uploaded files.
        host: host that the application is served on; a loopback host answers only to loopback names.
        port: port of the server, which makes its cookie differ from those of other servers.
        token: token that every request must have; None disables the check.

    Returns:
        The application.
    """

    @ui.page("/", title="facereel: find a person in your videos", favicon=ICON)
    async def search_page(track: str = "", person: str = "") -> None:
        page = SearchPage(search, uploads, track_number(track), person)
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
