"""Security headers of every response."""

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

# NiceGUI creates event handlers with eval, so eval cannot be forbidden. Inline scripts need the random nonce of their
# page. The page can load code from, and send data to, this server only.
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
# Browsers may cache code, which is the same for all users, but nothing that shows a face.
CODE = "/_nicegui/"


def security_headers(path: str, nonce: str) -> dict[str, str]:
    """Return the security headers of a response by name.

    Args:
        path: path of the request.
        nonce: nonce of the inline scripts that may run.
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
    """Send a response with the security headers, and with the nonce on the scripts of a page.

    Args:
        send: send function of the server.
        path: path of the request.
        cookie: cookie to set, or None.
    """

    def __init__(self, send: Send, path: str, cookie: str | None) -> None:
        self._send, self._path, self._cookie = send, path, cookie
        self._nonce = secrets.token_urlsafe(16)
        self._page: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send a message of the application. A page is sent after its body is complete."""
        if message["type"] == "http.response.start":
            # MutableHeaders expects lower case, which not every application sends.
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
