"""The web server of the search page and the HTTP API."""

import socket
import warnings
from contextlib import closing

import uvicorn

from facereel.errors import UserError
from facereel.retrieval.face_search import FaceSearch
from facereel.web.app import make_app
from facereel.web.uploads import Uploads


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: name or address.
        port: number of the port; 0 selects a free one.

    Returns:
        The socket.

    Raises:
        UserError: if the address is not available.
    """
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
        raise UserError(f"cannot listen on {host}, port {port}: {reason}") from error
    return listener


def serve(
    search: FaceSearch, listener: socket.socket, host: str, token: str | None, *, is_read_only: bool = False
) -> None:
    """Serve the search page and the HTTP API until the process is interrupted.

    Args:
        search: the index.
        listener: socket from `listen`.
        host: host that was given to `listen`.
        token: token that every request must have; None disables the check.
        is_read_only: whether to refuse changes of names and groups.
    """
    with closing(Uploads()) as uploads:
        port = listener.getsockname()[1]
        app = make_app(search, uploads, host=host, port=port, token=token, is_read_only=is_read_only)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        with warnings.catch_warnings():
            # When NiceGUI starts, it inspects all objects of the process, including deprecated ones of torch.
            warnings.filterwarnings("ignore", module="nicegui")
            uvicorn.Server(config).run(sockets=[listener])
