"""A Milvus server in a temporary folder, which tests start, kill and start again."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pymilvus
from repository import REPOSITORY

# The program that `make test-milvus` installs.
PROGRAM = Path(os.environ.get("FACEREEL_MILVUS_SERVER", REPOSITORY / ".venv-milvus" / "bin" / "milvus-server"))

_STARTING_S = 180.0


class MilvusServer:
    """A standalone server of the package milvus, with all its data in a folder.

    The server listens on all interfaces: version 2.3.5 has no option for that.

    Args:
        folder: an empty folder; its programs and logs take 300 MB.
        authorization: whether clients need a password; the first is root:Milvus.
    """

    def __init__(self, folder: Path, authorization: bool = False) -> None:
        self.folder = folder
        self.token = "root:Milvus" if authorization else ""
        port, self._metrics_port, etcd, peers = _free_ports(4)
        self.uri = f"http://127.0.0.1:{port}"
        self._options = ["--proxy-port", str(port), "--etcd-port", str(etcd), "--extra-config", "log.level=warn"]
        # Its etcd listens on ports 2379 and 2380 otherwise, whatever the options are.
        urls = {"client-urls": f"http://127.0.0.1:{etcd}", "peer-urls": f"http://127.0.0.1:{peers}"}
        settings = {"name": "default", "initial-cluster": f"default={urls['peer-urls']}"}
        settings |= {f"listen-{kind}": url for kind, url in urls.items()}
        settings |= {"advertise-client-urls": urls["client-urls"], "initial-advertise-peer-urls": urls["peer-urls"]}
        self._etcd_settings = folder / "etcd.yaml"
        self._etcd_settings.write_text(json.dumps(settings))  # JSON is YAML
        if authorization:
            self._options += ["--authorization-enabled", "true"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, on the port and with the data of the last time, and wait until it answers."""
        # The program unpacks the server into the folder and chooses its other ports. It would choose a new port after
        # a kill, while the connections of the last time are closing.
        server = self.folder / "bin" / "milvus"
        command = [str(PROGRAM), "--data", str(self.folder), *self._options]
        if server.exists():
            command = [str(server), "run", "standalone"]
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._metrics_port),
            "LD_LIBRARY_PATH": str(server.parent),
            "ETCD_CONFIG_PATH": str(self._etcd_settings),
        }
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + _STARTING_S
        while True:
            try:
                client = pymilvus.MilvusClient(self.uri, token=self.token, timeout=5)
                client.list_collections(timeout=5)
                client.close()
                return
            except pymilvus.MilvusException:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """End the server at once, with SIGKILL, as a loss of power does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
