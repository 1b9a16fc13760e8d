"""Plain text of help texts and comments as Markdown."""

import re
from collections.abc import Iterable


def escape(text: str) -> str:
    """Return text as Markdown for a table's cell or a paragraph.

    What stands in backticks stays; `key=value` and names with underscores become code; a page of docs/ becomes a link.
    The text is on a page of a folder of reference/.
    """
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _escape_plain(part) for part in parts).replace("|", "\\|")


def table(columns: Iterable[str], rows: Iterable[str]) -> str:
    """Return a Markdown table; its rows are lines already."""
    names = list(columns)
    return "\n".join([f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *rows])


def row(*cells: str) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _escape_plain(text: str) -> str:
    return re.sub(r"\S+", lambda match: _escape_word(match[0]), text)


def _escape_word(word: str) -> str:
    if match := re.search(r"docs/([\w/-]+)\.md", word):
        name = match[1].rpartition("/")[2].replace("_", " ")
        return f"{word[: match.start()]}[{name}](../../{match[1]}.md){word[match.end() :]}"
    if match := re.fullmatch(
        r"([('\"]*)([\w.+~/@]*(?:\w=[\w.${}/\[\],-]+|\w_\w[\w.]*|_\w+_)|--[a-z-]+)([).,;:'\"]*)", word
    ):
        before, code, after = match.groups()
        stripped = code.rstrip(".,")
        return f"{before}`{stripped}`{code[len(stripped) :]}{after}"
    return re.sub(r"([*_<\[\]])", r"\\\1", word)
