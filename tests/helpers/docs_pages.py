"""The pages that the site's hook makes, for tests of links and of the navigation."""

import importlib
import sys
from functools import lru_cache

from repository import REPOSITORY

# Scripts are not installed.
sys.path.append(str(REPOSITORY / "scripts" / "tools"))


@lru_cache
def generated_pages() -> dict[str, str]:
    """Return the text of each generated page by its path in docs/."""
    pages: dict[str, str] = importlib.import_module("docs_reference").pages()
    return pages
