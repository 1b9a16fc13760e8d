"""`Guard`: who may use the search page."""

import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from facereel.web.policy import CODE, SecuredSend


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Guard:
    """ASGI middleware that passes on only requests, and websockets, that may see faces.

    Args:
        app: the application.
        loopback: whether it serves this machine only. Then a request for another host name is refused: a foreign page
            could have had its own name resolved to this machine.
        token: required of every request, first as `?token=` and then as a cookie; None for no token.
        port: distinguishes the cookies of several servers on one machine.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str | None, port: int) -> None:
        self.app, self.loopback, self.token = app, loopback, token
        self.cookie = f"facereel-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
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
            # `SecuredSend` marks a page's scripts, so the page must not be compressed before.
            plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        await self.app(scope, receive, SecuredSend(send, scope["path"], cookie))

    def _refusal(self, request: HTTPConnection[Any], in_address: bool) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if self.loopback and not is_loopback(_name(host)):
            return 403, "This address is not the search page's own: open the one that facereel serve printed."
        # Without a token nothing else distinguishes our page from a foreign one in the same browser, and the library's
        # websocket would accept both.
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Another page asked for this: open the search page itself."
        if self.token is not None and not in_address and not self._is_token(request.cookies.get(self.cookie, "")):
            return 401, "The search page needs its token: open the whole address that facereel serve printed."
        return None

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        # Closed before it is accepted: the browser gets status 403.
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        await PlainTextResponse(f"{sentence}\n", status)(scope, receive, SecuredSend(send, "", None))
