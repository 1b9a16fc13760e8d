"""Whose code may run: a model, a run or a prepared folder may be a stranger's, and what it names is imported."""

from __future__ import annotations

from collections.abc import Iterable

_trusted: tuple[str, ...] = ()


def trust_modules(modules: list[str] | None) -> list[str] | None:
    """Trust modules, and those below them, from here on, in place of those before: the commands' option --trust."""
    global _trusted
    _trusted = tuple(modules or ())
    return modules


def trusted_modules() -> tuple[str, ...]:
    """Those that are trusted, to be handed to other processes."""
    return _trusted


def is_trusted(module: str, known: Iterable[str] = ()) -> bool:
    """Whether a module is one of those trusted or of those known, or lies below one."""
    return any(module == name or module.startswith(name + ".") for name in (*known, *_trusted))
