"""What commands print on: names of files and people cannot steer the terminal."""

from __future__ import annotations

from typing import Any

from rich import console
from rich.text import Text

# Controls of the terminal but for tab and new line, and those that turn the direction of text around.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in _CONTROLS if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """Put a replacement character in place of every control character.

    Examples:
        >>> printable("a film\\x1b[2J.mp4")
        'a film�[2J.mp4'
    """
    return text.translate(_SHOWN)


class Console(console.Console):
    """Rich's, with `printable` over all strings, those in tables among them."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render as `rich.console.Console.render_str`."""
        return super().render_str(printable(text), **options)
