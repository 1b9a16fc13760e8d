"""Check names of people, and find those that probably belong to one person but are spelled differently."""

from collections import defaultdict
from collections.abc import Iterable
from unicodedata import category, normalize

from facereel.errors import UserError

# Number of characters of the longest name that a user can give.
LONGEST_NAME = 200

# Number of groups of names in one line.
_EXAMPLES = 3


def check_name(text: str) -> str | None:
    """Check a name that a user gives to a person.

    Args:
        text: the name.

    Returns:
        The name without surrounding spaces, or None if nothing is left, which removes a name.

    Raises:
        UserError: if the name is too long or contains characters that cannot be printed.

    Examples:
        >>> check_name(" Ada Lovelace "), check_name(" ")
        ('Ada Lovelace', None)
    """
    name = text.strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise UserError(f"a name must have at most {LONGEST_NAME} characters, all printable")
    return name or None


def spelling_key(name: str) -> str:
    """Return a key that is equal for names that differ only in case, spaces, punctuation or Unicode normalization.

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
    """Return sorted groups of two or more names that differ only in their spelling; each group is sorted too."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[spelling_key(name)].append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def look_alike_line(names: Iterable[str]) -> str | None:
    """Return a line about names that look alike, or None if there are no such names.

    Examples:
        >>> look_alike_line(["Ada Lovelace", "Ada_Lovelace", "Alan Turing"])
        '1 group of names that look alike but count as different people: "Ada Lovelace", "Ada_Lovelace"'
    """
    groups = look_alike(names)
    if not groups:
        return None
    examples = "; ".join(", ".join(f'"{name}"' for name in group) for group in groups[:_EXAMPLES])
    more = "; ..." if len(groups) > _EXAMPLES else ""
    number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return f"{number} of names that look alike but count as different people: {examples}{more}"
