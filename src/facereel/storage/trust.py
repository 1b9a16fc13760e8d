"""Modules that may be imported: models, runs and prepared folders name modules, and may be untrusted."""

from collections.abc import Iterable

_trusted: tuple[str, ...] = ()


def trust_modules(modules: list[str] | None) -> list[str] | None:
    """Replace the trusted modules.

    Args:
        modules: names of modules, which are trusted with their submodules; None trusts none.

    Returns:
        The argument.
    """
    global _trusted
    _trusted = tuple(modules or ())
    return modules


def trusted_modules() -> tuple[str, ...]:
    """Return the trusted modules, to pass them to other processes."""
    return _trusted


def is_trusted(module: str, known: Iterable[str] = ()) -> bool:
    """Return whether a module is trusted.

    Args:
        module: name of the module.
        known: names of further modules to trust.
    """
    return any(module == name or module.startswith(name + ".") for name in (*known, *_trusted))
