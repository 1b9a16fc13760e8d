"""What commands print on: names of files and people cannot steer the terminal."""

from __future__ import annotations

from collections.abc import Iterable
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

    def print_notes(self, lines: Iterable[str], most: int = 10) -> None:
        """Print notes of one kind, and of more than a few how many there are."""
        notes = list(lines)
        for line in notes[:most]:
            self.print(f"note: {line}")
        if len(notes) > most:
            self.print(f"note: ... and {len(notes) - most} more like this")


def some(names: Iterable[object], most: int = 3) -> str:
    """The first few of many names.

    Examples:
        >>> some("abcd")
        'a, b, c, ...'
    """
    said = [str(name) for name in names]
    return ", ".join([*said[:most], *(["..."] if len(said) > most else [])])


def count(number: int, thing: str, things: str | None = None) -> str:
    """A number of things.

    Examples:
        >>> count(1, "video"), count(2000, "video"), count(2, "person", "people")
        ('1 video', '2,000 videos', '2 people')
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
