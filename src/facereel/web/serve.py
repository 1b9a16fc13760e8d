"""`facereel serve`."""

from __future__ import annotations

import importlib.util
import re
import secrets
import socket
import warnings
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlencode

from facereel.errors import Terminated, UserError
from facereel.retrieval.face_search import FaceSearch
from facereel.web.guard import is_loopback

# What stands in an address and in a cookie as it is, and is not guessed.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,200}")


def run_serve(folder: Path, host: str, port: int, token: str | None) -> None:
    """Serve the search page until Ctrl-C.

    Args:
        folder: the index.
        host: name or address to listen on.
        port: number; 0 takes a free one.
        token: that every request needs. Beyond this machine there always is one: it is made if not given.

    Raises:
        UserError: if the extra or the index is absent, the token is too weak, or the address cannot be had.
    """
    if importlib.util.find_spec("nicegui") is None:
        raise UserError("the search page needs NiceGUI: pip install 'facereel[web]'")
    if token is not None and not _TOKEN.fullmatch(token):
        raise UserError("--token: must be 8 to 200 of the characters A-Z a-z 0-9 _ -")
    search = FaceSearch(folder)
    loopback = is_loopback(host)
    if token is None and not loopback:
        token = secrets.token_urlsafe(24)
    with closing(_listen(host, port)) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else socket.gethostname() if host in ("0.0.0.0", "") else host
        query = "?" + urlencode({"token": token}) if token else ""
        print(f"facereel: the search page is at http://{shown}:{port}/{query}", flush=True)
        if not loopback:
            print("facereel: whoever has this address sees the index; it is not encrypted on its way", flush=True)
        with suppress(KeyboardInterrupt, Terminated):
            _serve(search, listener, host, port, token)


def _serve(search: FaceSearch, listener: socket.socket, host: str, port: int, token: str | None) -> None:
    # Here and not above: the extra may be absent.
    import uvicorn

    from facereel.web.app import make_app
    from facereel.web.uploads import Uploads

    with closing(Uploads()) as uploads:
        app = make_app(search, uploads, host=host, port=port, token=token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        with warnings.catch_warnings():
            # Its start looks at every object in the process, at torch's outdated ones too.
            warnings.filterwarnings("ignore", module="nicegui")
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host") from error
    return listener
