"""Check that a container is healthy, for HEALTHCHECK in the Dockerfile. Uses only the standard library.

`facereel serve` must answer on its port; status 401, for a missing token, is enough. A container that runs another
command, such as `facereel demo`, does not listen: it is healthy while it runs, and its exit code shows how it ended.
"""

import argparse
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path


def served_port(command: list[str]) -> int | None:
    """Return the port of a `facereel serve` command, also under an init process; None for another command."""
    for i, (program, name) in enumerate(pairwise(command)):
        if Path(program).name == "facereel" and name == "serve":
            parser = argparse.ArgumentParser(add_help=False)
            parser.add_argument("--port", type=int, default=7860)
            return int(parser.parse_known_args(command[i + 2 :])[0].port)
    return None


def main() -> None:
    """Send a request, and fail with a traceback if there is no answer."""
    command = Path("/proc/1/cmdline").read_bytes().decode().split("\0")
    port = served_port(command)
    if port is not None:
        connection = HTTPConnection("127.0.0.1", port, timeout=4)
        connection.request("GET", "/")
        print(f"status {connection.getresponse().status}")


if __name__ == "__main__":
    main()
