"""What every answer tells the browser that it may do."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

# NiceGUI makes its event handlers with eval, which cannot be forbidden; its inline scripts run by a number drawn for
# each page. No host but our own can be reached, neither for code nor with data.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
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
# Code that is the same for everyone may be kept by the browser; whatever shows a face may not.
CODE = "/_nicegui/"


def security_headers(path: str, nonce: str) -> dict[str, str]:
    """Headers of an answer.

    Args:
        path: that was asked for.
        nonce: which inline scripts must bear.
    """
    headers = {
        "content-security-policy": _POLICY.format(nonce=nonce),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    return headers if path.startswith(CODE) else {**headers, "cache-control": "no-store"}


class SecuredSend:
    """Sends an answer on with its headers, and with the nonce on the scripts of a page.

    Args:
        send: of the server.
        path: that was asked for.
        cookie: to be set, or None.
    """

    def __init__(self, send: Send, path: str, cookie: str | None) -> None:
        self._send, self._path, self._cookie = send, path, cookie
        self._nonce = secrets.token_urlsafe(16)
        self._page: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send a message of the application on, that of a page's start once its body is whole."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            kind = {name.lower(): value for name, value in headers}.get(b"content-type", b"")
            message["headers"] = self._headers(headers)
            if kind.startswith(b"text/html"):
                self._page = message
                return
        elif message["type"] == "http.response.body" and self._page is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_page(self._page)
            return
        await self._send(message)

    async def _send_page(self, start: Message) -> None:
        # Text of the index or of a user never holds "<script": the library escapes it.
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        ours = security_headers(self._path, self._nonce)
        kept = [(name, value) for name, value in headers if name.decode("latin-1").lower() not in ours]
        kept += [(name.encode(), value.encode()) for name, value in ours.items()]
        return kept if self._cookie is None else [*kept, (b"set-cookie", self._cookie.encode())]
