"""The consoles of the program: `console` on stdout and `error_console` on stderr."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

from facereel.system.text import printable


class Console(RichConsole):
    """A console that prints text unchanged, in tables too: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text as `rich.console.Console.render_str` does, without control characters."""
        return super().render_str(printable(text), **options)

    def print_notes(self, notes: Iterable[str], n: int = 10) -> None:
        """Print the first notes of one kind, and the number of the others.

        Args:
            notes: the notes, one line each.
            n: number of notes to print.
        """
        notes = list(notes)
        for note in notes[:n]:
            self.print(f"note: {note}")
        if len(notes) > n:
            self.print(f"note: ... and {len(notes) - n} more like this")


console = Console()
error_console = Console(stderr=True)
