"""`Guard`: who may ask the search page, and what every answer says to the browser. Plain ASGI, no library's."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# NiceGUI starts from inline scripts, and makes its event handlers with eval: those two cannot be forbidden. No host but
# our own can be reached, neither for code nor with data.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
# Code that is the same for everyone may be kept by the browser; whatever shows a face may not.
_KEPT = "/_nicegui/"


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
        refusal = self._refusal(scope, headers, by_address)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._headers(scope, list(message.get("headers", [])), by_address)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str], by_address: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 403, "This address is not the search page's own: open the one that facereel serve printed."
        # Browsers send cookies along with what other pages start; none of those has business here.
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if changes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
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

    def _headers(self, scope: Scope, headers: list[tuple[bytes, bytes]], by_address: bool) -> list[tuple[bytes, bytes]]:
        ours = dict(HEADERS)
        if not scope["path"].startswith(_KEPT):
            ours["cache-control"] = "no-store"
        kept = [(name, value) for name, value in headers if name.decode("latin-1").lower() not in ours]
        kept += [(name.encode(), value.encode()) for name, value in ours.items()]
        if by_address and self.token is not None:
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            kept.append((b"set-cookie", cookie.encode()))
        return kept


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted: the browser is answered 403.
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        return
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
    packed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": packed})
    await send({"type": "http.response.body", "body": sentence.encode() + b"\n"})
