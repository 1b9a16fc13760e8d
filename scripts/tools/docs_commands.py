"""Pages of the commands, from the functions and options that Typer makes them of."""

import inspect
import re
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from docs_text import escape, row, table
from typer.models import ArgumentInfo

from facereel.cli.main import app

_INTRODUCTION = """\
# Commands

Look up a command and its options here. These pages are made from the commands' own help, `facereel COMMAND --help`.

`train`, `evaluate` and `reproduce` take [configuration keys](../configuration.md), `key=value`, and `demo` passes them
on to `train`. All other commands take options.

A command ends with exit code 0 on success, 2 after a mistake in what you gave (one line on stderr), 130 after Ctrl-C,
and 143 after SIGTERM.
"""
_TYPES = {int: "whole number", float: "number", str: "text", bool: "flag", "Path": "path", "datetime": "day"}


def command_pages(folder: str) -> dict[str, str]:
    """Return a page for each command and one that lists them, by path."""
    found: dict[str, str] = {}
    listed: dict[str, list[str]] = {}
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    for entry in entries:
        name, text = str(entry.name), "\n\n".join(_describe(entry, f"facereel {entry.name}"))
        found[f"{folder}facereel_{name}.md"] = f"{text}\n"
        summary = escape(_help_of(entry).splitlines()[0])
        listed.setdefault(str(entry.rich_help_panel), []).append(
            row(f"[`facereel {name}`](facereel_{name}.md)", summary)
        )
    lists = [f"## {panel}\n\n{table(('command', 'what it does'), rows)}\n" for panel, rows in listed.items()]
    return {f"{folder}index.md": "\n".join([_INTRODUCTION, *lists]), **found}


def _describe(entry: Any, name: str, level: int = 1) -> Iterator[str]:
    """The text about a command, or about a group and its commands."""
    yield f"{'#' * level} {name}"
    yield from _help(_help_of(entry))
    if not hasattr(entry, "typer_instance"):
        yield from _parameters(entry.callback)
        return
    for command in entry.typer_instance.registered_commands:
        yield from _describe(command, f"{name} {command.name}", level + 1)


def _help_of(entry: Any) -> str:
    text = entry.typer_instance.info.help if hasattr(entry, "typer_instance") else entry.callback.__doc__
    return inspect.cleandoc(str(text))


def _help(text: str) -> Iterator[str]:
    """The paragraphs of a help text; commands after a colon become blocks of code."""
    for paragraph in text.split("\n\n"):
        words, end = " ".join(paragraph.split()), 0
        for match in re.finditer(r"([^.:]+): (facereel .+?)(?=\. [A-Z]|\.?$)", words):
            if before := words[end : match.start()].strip(" ."):
                yield f"{escape(before)}."
            yield f"{escape(match[1].strip())}:"
            yield f"```sh\n{match[2]}\n```"
            end = match.end()
        if rest := words[end:].lstrip(". "):
            yield escape(rest)


def _parameters(function: Callable[..., Any]) -> Iterator[str]:
    arguments, options = [], []
    defaults = inspect.signature(function).parameters
    for name, hint in get_type_hints(function, include_extras=True).items():
        if get_origin(hint) is not Annotated:  # Typer's context, and what is returned
            continue
        kind, info = get_args(hint)[:2]
        if isinstance(info, ArgumentInfo):
            arguments.append(row(f"`{info.metavar or name.upper()}`", _type_of(kind, info), escape(info.help or "")))
        else:
            names = _option_names(name, kind, info, defaults[name].default)
            default = _default_of(defaults[name].default, info)
            options.append(row(names, _type_of(kind, info), default, escape(info.help or "")))
    if arguments:
        yield table(("argument", "type", "meaning"), arguments)
    if options:
        yield table(("option", "type", "default", "meaning"), options)


def _option_names(name: str, kind: Any, info: Any, default: Any) -> str:
    plain = name.replace("_", "-")
    # In an Annotated the first name is where a default would be.
    given = [decl for decl in (info.default, *(info.param_decls or ())) if isinstance(decl, str) and decl[:1] == "-"]
    names = given or ([f"--{plain}", f"--no-{plain}"] if kind is bool and default is True else [f"--{plain}"])
    return ", ".join(f"`{part}`" for decl in names for part in decl.split("/"))


def _type_of(kind: Any, info: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return _type_of(next(part for part in get_args(kind) if part is not type(None)), info)
    if get_origin(kind) is list:
        return f"{_type_of(get_args(kind)[0], info)}; may be repeated"
    name = _TYPES.get(kind) or _TYPES.get(kind.__name__, kind.__name__)
    if info.min is None:
        return name
    return f"{name}, at least {info.min}" if info.max is None else f"{name}, {info.min} to {info.max}"


def _default_of(default: Any, info: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if default is None or default is False:
        return f"the variable `{info.envvar}`" if info.envvar else ""
    return "on" if default is True else f"`{default}`"
