"""What tests of engines let workers do; light to import, since each worker does."""

import os
import signal
import time
from pathlib import Path
from typing import NoReturn

from facereel.errors import UserError


def square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def befall(job: tuple[str, Path]) -> int:
    """Meet another worker, end one's own, or neither; returns the process."""
    what, marks = job
    (marks / f"{what}-{os.getpid()}").touch()
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + 300
    while what == "meets" and len(list(marks.glob("meets-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return os.getpid()


def fail(error: Exception) -> NoReturn:
    raise error


class Packed:
    """What another process cannot import."""

    def __reduce__(self) -> tuple[object, ...]:
        return fail, (ModuleNotFoundError("No module named 'mine'"),)


ERRORS = [
    (OSError(28, "No space left on device", "out"), OSError, r"\[Errno 28\] No space left on device: 'out'"),
    (UserError("a line"), UserError, "^a line$"),
    (IndexError("a fault"), RuntimeError, r"(?s)in a Ray worker: Traceback .*IndexError: a fault"),
]
