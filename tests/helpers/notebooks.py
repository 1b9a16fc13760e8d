"""Notebooks as they are stored, and a way to execute them without Jupyter."""

import json
from pathlib import Path
from typing import Any

# For `python -c`: executes the code cells of a notebook in one namespace, as a kernel does. The process finds modules
# next to the notebook, but none of the tests.
EXECUTE = """
import json, sys
from pathlib import Path

names = {"__name__": "__main__"}
for number, cell in enumerate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"], 1):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"{sys.argv[1]}, cell {number}", "exec"), names)
"""


def read_notebook(path: str | Path) -> dict[str, Any]:
    """Read the JSON of a notebook."""
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def code_cells(path: str | Path) -> list[tuple[int, str]]:
    """The number, from 1, and the source of each code cell."""
    cells = enumerate(read_notebook(path)["cells"], 1)
    return [(number, "".join(cell["source"])) for number, cell in cells if cell["cell_type"] == "code"]
