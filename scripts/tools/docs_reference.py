"""A hook of MkDocs: pages of every command's options and every configuration key, made when the site is built.

None of them is stored, so none can be out of date. In the navigation a folder stands for the pages made in it.
"""

import posixpath
from collections.abc import Mapping
from functools import cache
from typing import Any

from docs_commands import command_pages
from docs_keys import key_pages


def on_config(config: Any) -> Any:
    """Put the generated pages into the navigation in place of their folders."""
    folders: dict[str, list[str]] = {}
    for page in pages():
        folders.setdefault(f"{posixpath.dirname(page)}/", []).append(page)
    config.nav = _fill(config.nav, folders)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files


@cache
def pages() -> dict[str, str]:
    """Return the Markdown of each generated page by its path in docs/."""
    return {**command_pages("reference/commands/"), **key_pages("reference/keys/")}


def _fill(entry: Any, folders: Mapping[str, list[str]]) -> Any:
    if isinstance(entry, list):
        return [_fill(item, folders) for item in entry]
    if isinstance(entry, dict):
        return {name: _fill(value, folders) for name, value in entry.items()}
    return folders.get(entry, entry)
