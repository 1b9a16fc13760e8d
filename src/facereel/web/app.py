"""The web application: pages, media, uploads and the HTTP API, protected by the guard."""

from fastapi import FastAPI
from nicegui import ui

from facereel.retrieval.face_search import FaceSearch
from facereel.web.api.app import api_routes
from facereel.web.frame import ICON
from facereel.web.guard import Guard, is_loopback
from facereel.web.media import routes, track_number
from facereel.web.people_page import PeoplePage
from facereel.web.search_page import SearchPage
from facereel.web.uploads import Uploads


def make_app(
    search: FaceSearch, uploads: Uploads, *, host: str, port: int, token: str | None, is_read_only: bool
) -> Guard:
    """Build the ASGI application. Call it once per process: NiceGUI keeps its pages in a global application.

    Args:
        search: the index.
        uploads: store of the uploaded files.
        host: host that the application is served on; a loopback host answers only to loopback names.
        port: port of the server, which makes its cookie differ from those of other servers.
        token: token that every request must have; None disables the check.
        is_read_only: whether to refuse changes of names and groups.

    Returns:
        The application.
    """

    @ui.page("/", title="facereel: find a person in your videos", favicon=ICON)
    async def search_page(track: str = "", person: str = "") -> None:
        page = SearchPage(search, uploads, track_number(track), person, is_read_only=is_read_only)
        await ui.context.client.connected()
        await page.start()

    @ui.page("/people", title="facereel: people", favicon=ICON)
    async def people_page() -> None:
        page = PeoplePage(search.index, is_read_only)
        await ui.context.client.connected()
        await page.load()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api = api_routes(search, uploads.folder, has_token=token is not None, is_read_only=is_read_only)
    app.router.routes.extend([*routes(search.index), *uploads.routes(), *api])
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
