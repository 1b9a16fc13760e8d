"""Pages of the configuration keys: configs/ for keys, defaults and comments, the schema or the class for types."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from docs_text import escape, row, table

from facereel.config import schema

CONFIGS = Path(__file__).parents[2] / "configs"

_COMMANDS = {"train": schema.Train, "evaluate": schema.Evaluate, "reproduce": schema.Reproduce}
# What a group sets is at the place of its name in configs/train.yaml or configs/reproduce.yaml.
_GROUPS = (*(path.name for path in sorted(CONFIGS.iterdir()) if path.is_dir()),)
# Recipes and tables: their files say more than a table of their keys.
_SHOWN_WHOLE = ("experiment", "debug", "table")
_WORDS = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    list: "list",
    type(None): "`null`",
}
# Keys that each option sets and no file explains.
_MEANINGS = {
    "data.name": "Name of the data set in results.",
    "loss.stage2": "The loss of stage 2.",
    "augment.images": "Augmentation of images; null for none.",
    "augment.features": "Augmentation of features, stages 1 and 2; null for none.",
}
# Training fills these in from the data and the other parts.
_FILLED_IN = ("n_people", "dim", "n_bits")


@dataclass(frozen=True)
class _Key:
    path: tuple[str, ...]
    value: Any
    comment: str


def key_pages(folder: str) -> dict[str, str]:
    """Return a page for each command that takes keys and for each group of options, by path."""
    found = {f"{folder}{name}.md": _command_page(name, kind) for name, kind in _COMMANDS.items()}
    return found | {f"{folder}{group}.md": _group_page(group) for group in _GROUPS}


def _command_page(name: str, kind: type) -> str:
    path = CONFIGS / f"{name}.yaml"
    parts = [
        f"# Keys of {name}",
        f"Look up the keys of `facereel {name}` that belong to no [group](../configuration.md). "
        f"Made from `configs/{path.name}`.",
        table(("key", "type", "default", "meaning"), _rows(path, kind, ())),
    ]
    return "\n\n".join(parts) + "\n"


def _group_page(group: str) -> str:
    parts = [
        f"# {group}=",
        f"Look up the options of the group `{group}` and their keys. Made from `configs/{group}/`; "
        "[Configuration](../configuration.md) lists all groups.",
    ]
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        parts.append(
            f"## {group}={path.stem}" if path.stem[0] != "_" else f"## Keys that options start from ({path.stem})"
        )
        parts += _head(text)
        if group in _SHOWN_WHOLE:
            parts.append(f"```yaml\n{_body(text).strip()}\n```")
            continue
        bases = [entry for entry in (yaml.safe_load(text) or {}).get("defaults", []) if isinstance(entry, str)]
        parts += [f"Starts from `{group}={base}`; its other keys are the same." for base in bases if base[0] != "_"]
        prefix = () if "@package _global_" in text else (group,)
        if rows := list(_rows(path, schema.Train, prefix)):
            parts.append(table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _rows(path: Path, kind: Any, prefix: tuple[str, ...]) -> Iterator[str]:
    """A line of the table for each key of a file, of which those with keys inside have one if they are explained."""
    values, comments = _read(path)
    for key in _keys(values, comments):
        if isinstance(key.value, dict) and not key.comment:
            continue
        path_in_all = (*prefix, *key.path)
        name = ".".join(path_in_all)
        declared, meaning = _from_class(_at(values, key.path[:-1]).get("_target_"), key.path[-1])
        if key.path[-1] == "_target_":
            declared, meaning = "class", _summary(str(key.value))
        elif kinds := _kind_at(kind, path_in_all):
            declared = describe(kinds)
        meaning = key.comment or meaning or _explained().get(name, "")
        yield row(
            f"`{name}`",
            declared or _word_of(key.path[-1], key.value),
            _shown(key.path[-1], key.value),
            escape(_sentence(meaning)),
        )


@lru_cache
def _explained() -> dict[str, str]:
    """What some file or its class says of a key; of several the first, those that others start from before them."""
    found: dict[str, str] = {}
    files: list[tuple[Path, tuple[str, ...]]] = [(CONFIGS / f"{name}.yaml", ()) for name in _COMMANDS]
    for group in _GROUPS:
        paths = sorted((CONFIGS / group).glob("*.yaml"), key=lambda path: (path.stem[0] != "_", path.stem))
        files += [(path, () if "@package _global_" in path.read_text(encoding="utf-8") else (group,)) for path in paths]
    for path, prefix in files:
        values, comments = _read(path)
        for key in _keys(values, comments):
            target = _at(values, key.path[:-1]).get("_target_")
            if meaning := key.comment or _from_class(target, key.path[-1])[1]:
                found.setdefault(".".join((*prefix, *key.path)), meaning)
    return _MEANINGS | found


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}, _comments(text)


def _keys(
    values: Mapping[str, Any], comments: Mapping[tuple[str, ...], str], path: tuple[str, ...] = ()
) -> Iterator[_Key]:
    for name, value in values.items():
        here = (*path, name)
        if here in (("defaults",), ("hydra",)):
            continue
        # A comment above a key may explain the keys inside it: `name: meaning`, a line each.
        outer = (comments[(*here[:i], "*", name)] for i in range(len(here)) if (*here[:i], "*", name) in comments)
        yield _Key(here, value, comments.get(here, "") or next(outer, ""))
        if isinstance(value, dict):
            yield from _keys(value, comments, here)


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        values = values[name]
    return values


# Comments


def _comments(text: str) -> dict[tuple[str, ...], str]:
    """The comments of the keys by their path; (..., "*", name) is a key somewhere inside another."""
    found: dict[tuple[str, ...], str] = {}
    path: list[tuple[int, str]] = []
    pending: list[str] = []
    for line in _body(text).splitlines():
        if match := re.match(r"\s*# ?(.*)", line):
            pending.append(match[1])
            continue
        if match := re.match(r"( *)(\w+):(?: |$)", line):
            path = [step for step in path if step[0] < len(match[1])] + [(len(match[1]), match[2])]
            names = tuple(name for _, name in path)
            own, inside = _divide(pending)
            found[names] = own
            found |= {(*names, "*", name): meaning for name, meaning in inside.items()}
        pending = []
    return found


def _divide(lines: list[str]) -> tuple[str, dict[str, str]]:
    """A comment without its lines `name: meaning`, and these."""
    inside = {match[1]: match[2] for line in lines if (match := re.fullmatch(r"([a-z_0-9]+): (.+)", line))}
    if len(inside) < 3:  # a colon in a sentence
        return " ".join(lines), {}
    return " ".join(line for line in lines if not re.match(r"[a-z_0-9]+: ", line)), inside


def _head_lines(text: str) -> list[str]:
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    # Before a plain key only the first line is about the file, and only if there are more.
    is_head = end < len(lines) and re.match(r"defaults:|_target_:|$|\w+:$|\{|name:", lines[end])
    return lines[:end] if is_head else lines[: min(1, end - 1)]


def _body(text: str) -> str:
    return "\n".join(text.splitlines()[len(_head_lines(text)) :])


def _head(text: str) -> Iterator[str]:
    """The comment at the head of a file as paragraphs and blocks of code."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in _head_lines(text) if "@package" not in line]
    for block in "\n".join(lines).split("\n\n"):
        code = [line for line in block.splitlines() if line.startswith("  ")]
        if words := escape(" ".join(line for line in block.splitlines() if not line.startswith("  "))):
            yield words
        if code:
            yield "```sh\n" + inspect.cleandoc("\n" + "\n".join(code)) + "\n```"


# Types


def _kind_at(kind: Any, path: tuple[str, ...]) -> Any:
    """The type that the schema declares at a path, or None."""
    for name in path:
        parts = [part for part in get_args(kind) if part is not type(None)] if _is_union(kind) else [kind]
        kind = parts[0] if len(parts) == 1 else None
        if is_dataclass(kind):
            kind = get_type_hints(kind, include_extras=True).get(name)
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def describe(kind: Any) -> str:
    """Return a type in words.

    Examples:
        >>> describe(schema.Count | None)
        'whole number, at least 1, or `null`'
    """
    arguments = get_args(kind)
    if _is_union(kind):
        return ", or ".join(describe(part) for part in arguments)
    if get_origin(kind) is Annotated:
        return ", ".join([describe(arguments[0]), *(limit.words.replace(">", "above") for limit in arguments[1:])])
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if is_dataclass(kind):
        return "class and its arguments" if issubclass(kind, schema.Part) else "keys"  # type: ignore[arg-type]
    if get_origin(kind) in (list, tuple, Sequence):
        return f"list of {describe(arguments[0])}s"
    if get_origin(kind) in (dict, Mapping):
        return "keys"
    return _WORDS.get(kind) or f"`{inspect.formatannotation(kind)}`"


def _from_class(target: Any, name: str) -> tuple[str, str]:
    """The type of an argument of a class and what its docstring says, where they are known."""
    if not isinstance(target, str) or (found := _load(target)) is None:
        return "", ""
    function = found.__init__ if inspect.isclass(found) else found
    try:
        kind = get_type_hints(function).get(name)
    except (NameError, TypeError):
        kind = None
    # A class whose base explains the argument does not repeat it.
    documents = [
        inspect.cleandoc(base.__doc__ or "") for base in (inspect.getmro(found) if inspect.isclass(found) else [found])
    ]
    match = re.search(
        rf"^ +(?:\w+, )*{name}(?:, \w+)*(?: \([^)]*\))?: (.*(?:\n {{8,}}.*)*)",
        "\n\n".join(documents),
        flags=re.MULTILINE,
    )
    return describe(kind) if kind is not None else "", " ".join(match[1].split()) if match else ""


def _summary(target: str) -> str:
    found = _load(target)
    if found is None:
        return "Your own class."
    return inspect.cleandoc(found.__doc__ or "A class of another package.").split("\n\n")[0]


def _load(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name) if module else None
    except ImportError:  # an extra that is not installed
        return None


def _word_of(name: str, value: Any) -> str:
    """The type of a value that neither the schema nor a class declares."""
    return _WORDS[int] if value == "???" and name in _FILLED_IN else _WORDS.get(type(value), "keys")


def _shown(name: str, value: Any) -> str:
    """A default as a table shows it."""
    if isinstance(value, dict):
        return "see below" if value else "`{}`"
    if value == "???":
        return "filled in" if name in _FILLED_IN else "required"
    if isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        return f"that of `{match[1]}`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
    return f"`{text}`".replace("|", "\\|")


def _sentence(text: str) -> str:
    """Text with a capital at its start if that is a word, and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+ ", text) else text
