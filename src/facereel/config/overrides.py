"""Overrides in Hydra's grammar: `key=value`, from the command line or a run's folder."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from facereel.errors import UserError

# Keys with paths of inputs. All paths are saved as absolute paths, so that a run can be resumed from any folder.
INPUTS = (
    *("data.root", "data.stills_root", "data.manifest", "data.detector", "protocol.pairs", "protocol.file"),
    *("init_from", "encoder.weights", "checkpoint", "published"),
)
# Values of these keys that are no paths.
NOT_PATHS = (None, "", "mtcnn", "yunet", "pretrained")


def parse(argument: str) -> Override:
    """Return one override, parsed."""
    return OverridesParser.create().parse_override(argument)


def quoted(value: str) -> str:
    """Return a text with quotes, so that Hydra's grammar reads it unchanged."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def literal(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def readable(argument: str) -> str:
    """Return key=value with the value quoted if Hydra cannot parse it, as with a space, and with absolute paths."""
    key, separator, value = argument.partition("=")
    if argument.startswith("-") or not separator:
        return argument
    try:
        parsed = parse(argument)
    except HydraException:
        argument = f"{key}={quoted(value)}"
        parsed = parse(argument)
    is_path = (key in (*INPUTS, "out", "resume") or key.startswith("sources.")) and not parsed.is_sweep_override()
    if is_path and parsed.value() not in NOT_PATHS:
        return f"{key}={quoted(str(Path(str(parsed.value())).expanduser().absolute()))}"
    return argument


def take(arguments: Sequence[str], key: str) -> tuple[list[str], str | None]:
    """Split off the value of a key.

    Args:
        arguments: overrides.
        key: the key.

    Returns:
        The other overrides, and the value without Hydra's quotes: the last one if there are several, or None.
    """
    own = [argument for argument in arguments if argument.startswith(f"{key}=")]
    rest = [argument for argument in arguments if argument not in own]
    return rest, str(parse(own[-1]).value()) if own else None


def leaves(node: Any, into_lists: bool = False, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each leaf of a configuration.

    Args:
        node: the configuration, of plain dicts and lists.
        into_lists: whether to enter lists, with the item number as key; otherwise a list is a leaf.
        key: key of the node in the whole configuration.
    """
    if isinstance(node, dict):
        members: Any = node.items()
    elif into_lists and isinstance(node, list):
        members = enumerate(node)
    else:
        yield key, node
        return
    for name, value in members:
        yield from leaves(value, into_lists, f"{key}.{name}" if key else str(name))


def refuse_options(arguments: Sequence[str], known: Sequence[str] = ()) -> None:
    """Refuse unknown options, which begin with a hyphen.

    Args:
        arguments: the user's arguments.
        known: the options to accept.

    Raises:
        UserError: for the first unknown option.
    """
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise UserError(f"unknown option {argument}: configure with key=value")
