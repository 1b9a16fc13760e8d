"""What the routes of the HTTP API share: the index, and checked parameters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, HTTPException, Query, Request
from fastapi import Path as PathParameter

from facereel.parallel.pool import n_processors
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.track_index import Track, TrackIndex
from facereel.web.api.errors import absent

T = TypeVar("T")

# Number of entries of a page.
LIMIT = 100
MOST_ENTRIES = 1000
# Programs in other languages read numbers of JSON as floats: up to here they are exact.
_LARGEST_INTEGER = 2**53 - 1


@dataclass(frozen=True)
class ApiContext:
    """The state of the API."""

    search: FaceSearch
    folder: Path
    """Folder for uploads until their faces are found."""
    is_read_only: bool = False
    _turns: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(n_processors()))

    @property
    def index(self) -> TrackIndex:
        """The index."""
        return self.search.index

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Return the result of a search in a thread, after those that came before.

        More searches at once than processors would make all of them slower, and need more memory.

        Args:
            work: the search.
        """
        return await to_thread.run_sync(work, limiter=self._turns)

    def track(self, number: int) -> Track:
        """Return a track.

        Args:
            number: id of the track.

        Raises:
            HTTPException: if it is not in the index.
        """
        found = self.index.tracks([number])
        if not found:
            raise absent(f"track {number}")
        return found[0]


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context)]


def _writable(context: Context) -> ApiContext:
    if context.is_read_only:
        raise HTTPException(403, "This server is read-only: start it without --read-only to change names and groups.")
    return context


WritableContext = Annotated[ApiContext, Depends(_writable)]


def refuse_unknown_parameters(request: Request) -> None:
    """Refuse a parameter that the description does not have: with a misspelled filter, the answer would be wrong.

    Args:
        request: the request.

    Raises:
        HTTPException: if there is one.
    """
    operations = request.app.openapi()["paths"].get(request.scope["route"].path)
    if operations is None:  # the page of the description itself
        return
    described = operations[request.method.lower()].get("parameters", [])
    names = {one["name"] for one in described if one["in"] == "query"}
    # The guard reads the token of an address.
    for name in request.query_params.keys() - names - {"token"}:
        known = f"it must be one of {', '.join(sorted(names))}" if names else "this address has none"
        raise HTTPException(422, f"Unknown parameter {name[:100]}: {known}.")


TrackId = Annotated[int, PathParameter(description="Id of the track.", ge=1, le=_LARGEST_INTEGER)]
GroupNumber = Annotated[int, PathParameter(description="Number of the group.", ge=1, le=_LARGEST_INTEGER)]
Limit = Annotated[int, Query(description="Maximum number of entries.", ge=1, le=MOST_ENTRIES)]
AfterNumber = Annotated[int, Query(description="The `next` of the page before.", ge=0, le=_LARGEST_INTEGER)]
AfterText = Annotated[str, Query(description="The `next` of the page before.")]
GroupFilter = Annotated[int | None, Query(description="Only tracks of this group.", ge=1, le=_LARGEST_INTEGER)]
