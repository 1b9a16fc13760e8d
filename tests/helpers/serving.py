"""`facereel serve` in a process of its own, and the browser that is found."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--mute-audio"),
)


@contextmanager
def serving(index: Path, *arguments: str, temporary: Path | None = None) -> Iterator[str]:
    """Run facereel serve on a free port, with its temporary files in a folder; its address as it prints it."""
    command = [sys.executable, "-c", "from facereel.cli.main import main; main()", "serve", "--index", str(index)]
    process = subprocess.Popen(
        [*command, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ if temporary is None else {**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield found[0]
        assert process.poll() is None, process.stderr.read()
    finally:
        process.terminate()
        _, said = process.communicate(timeout=300)
    assert process.returncode in (0, -15), said
    assert "Traceback" not in said, said
