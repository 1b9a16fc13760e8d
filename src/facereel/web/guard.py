"""`Guard`: access control of the search page and the HTTP API."""

import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from facereel.web.policy import CODE, SecuredSend

# Addresses of the HTTP API begin with it.
API = "/api/v1"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Guard:
    """ASGI middleware that forwards only authorized requests and websockets.

    Args:
        app: the application.
        loopback: whether it serves this machine only. Then a request for another host name is rejected: another page
            could resolve its own name to this machine (DNS rebinding).
        token: token that every request must have, first as `?token=` and then as a cookie, or for the HTTP API as
            `Authorization: Bearer`; None disables the check.
        port: port of the server, which makes cookies of several servers on one machine differ.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str | None, port: int) -> None:
        self.app, self.loopback, self.token = app, loopback, token
        self.cookie = f"facereel-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or forward a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        in_address = self._is_token(request.query_params.get("token", ""))
        refusal = self._refusal(request, in_address)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/" if in_address else None
        if not scope["path"].startswith(CODE):
            # `SecuredSend` adds a nonce to a page's scripts, so the page must not be compressed.
            plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        await self.app(scope, receive, SecuredSend(send, scope["path"], cookie))

    def _refusal(self, request: HTTPConnection[Any], in_address: bool) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if self.loopback and not is_loopback(_name(host)):
            return 403, "This is not the address of the search page. Open the address that facereel serve printed."
        # Without a token, nothing else distinguishes this page from another one in the same browser, and NiceGUI's
        # websocket would accept both.
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "This request came from another page. Open the search page itself."
        if self.token is None or in_address or self._is_token(request.cookies.get(self.cookie, "")):
            return None
        if is_api(request.scope):
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() == "bearer" and self._is_token(given.strip()):
                return None
            return 401, "The token is missing or wrong. Send the header Authorization: Bearer TOKEN."
        return 401, "The search page requires a token. Open the complete address that facereel serve printed."

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def is_api(scope: Scope) -> bool:
    """Return whether a request is for the HTTP API."""
    path: str = scope["path"]
    return path == API or path.startswith(f"{API}/")


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        # It is closed before it is accepted, so that the browser gets status 403.
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        answer: Response = PlainTextResponse(f"{sentence}\n", status)
        if is_api(scope):
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            answer = JSONResponse({"detail": sentence}, status, headers)
        await answer(scope, receive, SecuredSend(send, "", None))
