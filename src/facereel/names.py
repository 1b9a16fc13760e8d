"""People's names that are probably one person's, spelled in two ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from unicodedata import category, normalize

# Groups of names in one line.
_EXAMPLES = 3


def spelling_key(name: str) -> str:
    """What names have in common that differ in case, spaces, hyphens, dots, apostrophes or how Unicode writes a letter.

    Examples:
        >>> spelling_key("Ada Lovelace") == spelling_key("ada_lovelace ") == spelling_key("ADA-LOVELACE")
        True
    """
    text = normalize("NFKC", normalize("NFKC", name).casefold())
    kept = []
    for letter in text:
        kind = category(letter)
        if kind[0] == "Z" or kind in ("Cc", "Pc", "Pd") or letter in ".,":
            kept.append(" ")
        elif kind not in ("Cf", "Pi", "Pf") and letter not in "'`\N{MODIFIER LETTER APOSTROPHE}":
            kept.append(letter)
    # A name of nothing but such characters is like itself only.
    return " ".join("".join(kept).split()) or name


def look_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two and more names that differ in their spelling only, each and all in sorted order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[spelling_key(name)].append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def look_alike_line(names: Iterable[str]) -> str | None:
    """A line that says which names look alike, or None if none do.

    Examples:
        >>> look_alike_line(["Ada Lovelace", "Ada_Lovelace", "Alan Turing"])
        '1 group of names that look alike, and are taken for different people: "Ada Lovelace", "Ada_Lovelace"'
    """
    groups = look_alike(names)
    if not groups:
        return None
    said = "; ".join(", ".join(f'"{name}"' for name in group) for group in groups[:_EXAMPLES])
    more = "; ..." if len(groups) > _EXAMPLES else ""
    number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return f"{number} of names that look alike, and are taken for different people: {said}{more}"
