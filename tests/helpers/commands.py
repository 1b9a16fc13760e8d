"""Commands as a user types them, in this process, for speed; and what they write, to compare."""

from typing import Any

from facereel.cli.main import main


def run(*arguments: object) -> int:
    """Run a command and return its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def flat(metrics: Any, key: str = "") -> dict[str, Any]:
    """Nested metrics by the path of each value, which pytest.approx can compare."""
    if not isinstance(metrics, dict | list):
        return {key: metrics}
    pairs = metrics.items() if isinstance(metrics, dict) else enumerate(metrics)
    return {path: leaf for name, value in pairs for path, leaf in flat(value, f"{key}/{name}").items()}
