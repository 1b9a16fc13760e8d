"""Format numbers, names and times for people to read."""

from collections.abc import Iterable

# Control characters except tab and newline, and those that change the direction of text.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REPLACED = {code: "\N{REPLACEMENT CHARACTER}" for code in _CONTROLS if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """Return text without control characters, so that names of files and people cannot control the terminal.

    Examples:
        >>> printable("a film\\x1b[2J.mp4")
        'a film�[2J.mp4'
    """
    return text.translate(_REPLACED)


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun in the singular or plural.

    Args:
        number: the number.
        noun: the singular.
        nouns: the plural; None adds an s to the singular.

    Examples:
        >>> plural(1, "video"), plural(2000, "video"), plural(2, "person", "people")
        ('1 video', '2,000 videos', '2 people')
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def first_few(names: Iterable[object], n: int = 3) -> str:
    """Return the first names joined by commas, with dots for the others.

    Args:
        names: the names.
        n: number of names to show.

    Examples:
        >>> first_few("abcd")
        'a, b, c, ...'
    """
    texts = [str(name) for name in names]
    return ", ".join([*texts[:n], *(["..."] if len(texts) > n else [])])


def format_timestamp(seconds: float, digits: int = 0) -> str:
    """Return a time in a video as players show it: minutes and seconds, with hours if there are any.

    Args:
        seconds: seconds from the start of the video.
        digits: number of decimals of the seconds; further ones are truncated.

    Examples:
        >>> format_timestamp(7), format_timestamp(62.48, 1), format_timestamp(3725)
        ('0:07', '1:02.4', '1:02:05')
    """
    units = int(seconds * 10**digits + 1e-6)
    whole, fraction = divmod(units, 10**digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f".{fraction:0{digits}}" if digits else ""
    return f"{hours}:{minutes:02}:{rest:02}{tail}" if hours else f"{minutes}:{rest:02}{tail}"
