"""Processes that start fast: copies of one that has imported what the commands need."""

import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

# Importing these takes longer than most tests.
IMPORTS = [
    *("pytest", "av", "cv2", "faiss", "scipy.sparse", "facereel.retrieval.face_search", "facereel.video.ingest"),
    *("facereel.cli.main", "facereel.config.build", "facereel.training.pipeline", "facereel.training.hashing_module"),
]


def start(work: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Call a function of a module in another process, which ends with it."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def run_script(script: str, *arguments: object) -> int | None:
    """Run Python code as `python -c` does, and return the exit code."""
    process = start(_execute, script, [str(argument) for argument in arguments])
    process.join()
    return process.exitcode


def start_command(environment: Mapping[str, str], *arguments: object) -> ForkServerProcess:
    """Start a command with an environment of its own."""
    return start(_command, dict(environment), [str(argument) for argument in arguments])


def _execute(script: str, arguments: list[str]) -> None:
    sys.argv = ["-c", *arguments]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(script, names)


def _command(environment: dict[str, str], arguments: list[str]) -> None:
    from facereel.cli.main import main

    os.environ.clear()
    os.environ.update(environment)
    main(arguments)
