"""Overrides in Hydra's grammar: `key=value`, from the command line or a run's folder."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from facereel.errors import UserError

# Keys with paths of what is read. All paths are saved as absolute ones, so that a run can be resumed from anywhere.
INPUTS = (
    *("data.root", "data.stills_root", "data.manifest", "data.detector", "protocol.pairs", "protocol.file"),
    *("init_from", "encoder.weights", "checkpoint", "published"),
)
# Values of these keys that are not paths.
NOT_PATHS = (None, "", "mtcnn", "pretrained")


def parse(argument: str) -> Override:
    """Parse one override."""
    return OverridesParser.create().parse_override(argument)


def quoted(value: str) -> str:
    """Quote a text so that Hydra's grammar takes it as it is."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def literal(value: Any) -> str:
    """Write any value in Hydra's grammar."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def readable(argument: str) -> str:
    """Quote the value of key=value if Hydra cannot parse it, such as a path with a space; make paths absolute."""
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
    """Split off key=VALUE, the last one if there are several, with Hydra's quotes removed."""
    own = [argument for argument in arguments if argument.startswith(f"{key}=")]
    rest = [argument for argument in arguments if argument not in own]
    return rest, str(parse(own[-1]).value()) if own else None


def leaves(node: Any, into_lists: bool = False, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration of plain dicts and lists, each with its key.

    Args:
        node: the configuration.
        into_lists: also go into lists, whose items have their number as key; otherwise a list is a value.
        key: the node's own.
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
    """Refuse options, which begin with a hyphen.

    Raises:
        UserError: for an option that is not known.
    """
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise UserError(f"there is no option {argument}; configure with key=value")
