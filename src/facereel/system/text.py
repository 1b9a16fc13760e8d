"""Numbers, names and times as text for people to read."""

from collections.abc import Iterable

# Control characters except tab and newline, and those that change the direction of text.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REPLACED = {code: "\N{REPLACEMENT CHARACTER}" for code in _CONTROLS if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """Replace every control character, so that names of files and people cannot control the terminal.

    Examples:
        >>> printable("a film\\x1b[2J.mp4")
        'a film�[2J.mp4'
    """
    return text.translate(_REPLACED)


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """Format a number of things.

    Args:
        number: how many.
        noun: singular.
        nouns: plural; the singular with an s if not given.

    Examples:
        >>> plural(1, "video"), plural(2000, "video"), plural(2, "person", "people")
        ('1 video', '2,000 videos', '2 people')
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def first_few(names: Iterable[object], n: int = 3) -> str:
    """Join the first `n` names, with dots for the others.

    Examples:
        >>> first_few("abcd")
        'a, b, c, ...'
    """
    texts = [str(name) for name in names]
    return ", ".join([*texts[:n], *(["..."] if len(texts) > n else [])])


def format_timestamp(seconds: float, digits: int = 0) -> str:
    """Format a time of a video as players do: hours if there are any, minutes and seconds.

    Args:
        seconds: from the start of the video.
        digits: decimals of the seconds; the rest is truncated.

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
