"""Commands as a user types them, in this process, for speed; and what they write, to compare."""

import sqlite3
from pathlib import Path
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


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder. Hidden ones are locks, which a killed worker may hold for a moment."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def rows(index: Path) -> Any:
    """All that an index holds of videos and tracks, ids and codes among it, and its thumbnails."""
    database = sqlite3.connect(index / "index.sqlite")
    held = [database.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in ("videos", "tracks")]
    database.close()
    return held, [path.read_bytes() for path in sorted((index / "thumbnails").rglob("*.jpg"))]
