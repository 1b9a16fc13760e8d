"""The application of the HTTP API, with its description in OpenAPI."""

import base64
from pathlib import Path

from fastapi import Depends
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route

from facereel import __version__
from facereel.retrieval.face_search import FaceSearch
from facereel.web.api import index_routes, people_routes, search_routes, track_routes
from facereel.web.api.context import ApiContext, refuse_unknown_parameters
from facereel.web.api.errors import add_handlers, problems
from facereel.web.api.limits import LimitRequests
from facereel.web.frame import ICON
from facereel.web.guard import API

_ABOUT = """\
Search videos by face, and name people. Every error is a JSON object with one sentence, `{"detail": "..."}`.

Lists come in pages: give the `next` of an answer as `after` of the next request, until it is null.
"""
_TAGS = [
    {"name": "search", "description": "Find a person by photos."},
    {"name": "index", "description": "The server, its index and its videos."},
    {"name": "tracks", "description": "Tracks: one face in one video, from one second to another."},
    {"name": "people", "description": "Named people, groups of tracks, and their names."},
]

# The guard checks the token; this describes it.
_BEARER = Depends(HTTPBearer(auto_error=False, description="The token of facereel serve."))


def api_routes(search: FaceSearch, folder: Path, *, has_token: bool, is_read_only: bool = False) -> list[BaseRoute]:
    """Return the routes of the HTTP API, which needs the `Guard` of the page before it.

    Args:
        search: the index.
        folder: folder for uploads until their faces are found.
        has_token: whether the guard requires a token, for the description.
        is_read_only: whether to refuse changes.
    """
    app = FastAPIOffline(
        title="facereel",
        version=__version__,
        summary="Find a person in your videos.",
        description=_ABOUT,
        openapi_tags=_TAGS,
        docs_url="/docs",
        redoc_url=None,
        favicon_url=f"data:image/svg+xml;base64,{base64.b64encode(ICON.encode()).decode()}",
        static_url="/assets",
        redirect_slashes=False,
        # By default, the page asks a validator on the internet about the schema.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
        responses=problems(*([401] if has_token else []), 403, 422, 500),
        dependencies=[Depends(refuse_unknown_parameters), *([_BEARER] if has_token else [])],
    )
    app.state.context = ApiContext(search, folder, is_read_only)
    add_handlers(app)
    app.add_middleware(LimitRequests)
    for module in (search_routes, index_routes, track_routes, people_routes):
        app.include_router(module.router)

    def to_docs(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{API}/docs")

    app.router.routes.append(Route("/", to_docs))
    return [Route(API, to_docs), Mount(API, app)]
