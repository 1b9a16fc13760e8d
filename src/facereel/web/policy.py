"""What every response allows the browser to do."""

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

# NiceGUI makes its event handlers with eval, which therefore cannot be forbidden; its inline scripts run by a nonce
# drawn for each page. No other host can be reached, neither for code nor with data.
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
# Browsers may cache code, which is the same for everyone, but nothing that shows a face.
CODE = "/_nicegui/"


def security_headers(path: str, nonce: str) -> dict[str, str]:
    """Return the headers of a response.

    Args:
        path: of the request.
        nonce: of the inline scripts that may run.
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
    """Sends a response with the security headers, and with the nonce on the scripts of a page.

    Args:
        send: of the server.
        path: of the request.
        cookie: to set, or None.
    """

    def __init__(self, send: Send, path: str, cookie: str | None) -> None:
        self._send, self._path, self._cookie = send, path, cookie
        self._nonce = secrets.token_urlsafe(16)
        self._page: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send a message of the application; a page when its body is complete."""
        if message["type"] == "http.response.start":
            # Not every application sends lower case, which MutableHeaders expects.
            message["headers"] = [(name.lower(), value) for name, value in message.get("headers", [])]
            headers = MutableHeaders(scope=message)
            headers.update(security_headers(self._path, self._nonce))
            if self._cookie is not None:
                headers.append("set-cookie", self._cookie)
            if headers.get("content-type", "").startswith("text/html"):
                self._page = message
                return
        elif message["type"] == "http.response.body" and self._page is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_page(self._page)
            return
        await self._send(message)

    async def _send_page(self, start: Message) -> None:
        # Text of the index or of a user never contains "<script": the library escapes it.
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
