"""Commands as a user types them, in this process, for speed."""

from facereel.cli.main import main


def run(*arguments: object) -> int:
    """Run a command and return its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
