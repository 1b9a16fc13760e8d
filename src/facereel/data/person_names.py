"""Find names that are probably one person's, spelled in two ways."""

from collections import defaultdict
from collections.abc import Iterable
from unicodedata import category, normalize

# Groups of names in one line.
_EXAMPLES = 3


def spelling_key(name: str) -> str:
    """A key that is equal for names that differ only in case, spaces, punctuation or Unicode normalization.

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
    # A name of only such characters is its own key.
    return " ".join("".join(kept).split()) or name


def look_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that differ only in their spelling; the groups and the names in each are sorted."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[spelling_key(name)].append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def look_alike_line(names: Iterable[str]) -> str | None:
    """A line about names that look alike, or None if there are none.

    Examples:
        >>> look_alike_line(["Ada Lovelace", "Ada_Lovelace", "Alan Turing"])
        '1 group of names that look alike, and are taken for different people: "Ada Lovelace", "Ada_Lovelace"'
    """
    groups = look_alike(names)
    if not groups:
        return None
    examples = "; ".join(", ".join(f'"{name}"' for name in group) for group in groups[:_EXAMPLES])
    more = "; ..." if len(groups) > _EXAMPLES else ""
    number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return f"{number} of names that look alike, and are taken for different people: {examples}{more}"
