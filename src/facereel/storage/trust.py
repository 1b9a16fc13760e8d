"""Modules whose code may run: a model, a run or a prepared folder may be untrusted, and what it names is imported."""

from collections.abc import Iterable

_trusted: tuple[str, ...] = ()


def trust_modules(modules: list[str] | None) -> list[str] | None:
    """Trust these modules, and those below them, from now on, in place of those trusted before."""
    global _trusted
    _trusted = tuple(modules or ())
    return modules


def trusted_modules() -> tuple[str, ...]:
    """The trusted modules, for other processes."""
    return _trusted


def is_trusted(module: str, known: Iterable[str] = ()) -> bool:
    """Whether a module is one of those trusted or of those known, or is below one."""
    return any(module == name or module.startswith(name + ".") for name in (*known, *_trusted))
