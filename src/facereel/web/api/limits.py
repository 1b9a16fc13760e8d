"""Limits of requests that are checked before a body is read."""

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facereel.web.uploads import LARGEST_MB

# Photos of one search.
MOST_PHOTOS = 10
# Searches that run, wait or are being received. Their uploads may be on the disk at the same time.
MOST_SEARCHES = 64

RETRY_S = 2

# Room for what a form has around its files.
_LARGEST_FORM = LARGEST_MB * 1024**2 + 64 * 1024
_LARGEST_JSON = 64 * 1024
_SEARCHES = ("/search", "/similar")


class LimitRequests:
    """ASGI middleware that limits the size of bodies and the number of searches.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.n_searches = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or forward a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        largest = _LARGEST_FORM if scope["path"].endswith("/search") else _LARGEST_JSON
        if _announced(scope) > largest:
            await JSONResponse({"detail": _explain(largest)}, 413)(scope, receive, send)
            return
        limited = _LimitedReceive(receive, largest)
        if not scope["path"].endswith(_SEARCHES):
            await self.app(scope, limited, send)
            return
        if self.n_searches >= MOST_SEARCHES:
            busy = {"detail": f"{MOST_SEARCHES} searches are waiting: try again in {RETRY_S} seconds."}
            await JSONResponse(busy, 503, {"Retry-After": str(RETRY_S)})(scope, receive, send)
            return
        self.n_searches += 1
        try:
            await self.app(scope, limited, send)
        finally:
            self.n_searches -= 1


class _LimitedReceive:
    """Receive a body up to a size; the length in the header may be wrong."""

    def __init__(self, receive: Receive, largest: int) -> None:
        self._receive, self._largest, self._size = receive, largest, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._largest:
            raise HTTPException(413, _explain(self._largest))
        return message


def _announced(scope: Scope) -> int:
    """Return the size of the body in the header, or 0."""
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


def _explain(largest: int) -> str:
    limit = f"{LARGEST_MB} MB" if largest == _LARGEST_FORM else f"{_LARGEST_JSON // 1024} KB"
    return f"The request is larger than {limit}."
