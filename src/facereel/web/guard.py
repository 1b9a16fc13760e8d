"""`Guard`: who may ask the search page, and how it is refused. Plain ASGI, no library's."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from facereel.web.policy import CODE, Message, SecuredSend, Send

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host's name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Guard:
    """Let through only requests, and websockets, that may see faces.

    Args:
        app: what is guarded.
        loopback: whether it serves this machine alone. Then a request that came under another host's name is refused:
            a foreign page could have had its own name resolved to this machine.
        token: what a request must bring, once as `?token=` and from then on as a cookie; None for no need.
        port: tells the cookies of several servers on one machine apart.
    """

    def __init__(self, app: App, *, loopback: bool, token: str | None, port: int) -> None:
        self.app, self.loopback, self.token = app, loopback, token
        self.cookie = f"facereel-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        by_address = self._token_fits(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[-1])
        refusal = self._refusal(headers, by_address)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/" if by_address else None
        secured = SecuredSend(send, scope["path"], cookie)
        if not scope["path"].startswith(CODE):
            # A page's scripts are marked on the way, so it must not be compressed before.
            plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        await self.app(scope, receive, secured)

    def _refusal(self, headers: dict[str, str], by_address: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.loopback and not is_loopback(_name(host)):
            return 403, "This address is not the search page's own: open the one that facereel serve printed."
        # Without a token nothing else tells our page from a foreign one in the same browser. The library's websocket
        # would take both.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Another page asked for this: open the search page itself."
        if self.token is not None and not by_address and not self._token_fits(self._in_cookie(headers)):
            return 401, "The search page needs its token: open the whole address that facereel serve printed."
        return None

    def _token_fits(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _in_cookie(self, headers: dict[str, str]) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted: the browser is answered 403.
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        return
    secured = SecuredSend(send, "", None)
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await secured({"type": "http.response.start", "status": status, "headers": kind})
    await secured({"type": "http.response.body", "body": sentence.encode() + b"\n"})
