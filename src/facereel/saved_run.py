"""What the folder of a run says of it. It may be a stranger's: what it names must be facereel's, torch's or trusted."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from facereel.errors import UserError
from facereel.files import LARGEST_JSON, inside, read_json
from facereel.models import VideoHasher
from facereel.trust import is_trusted

# What a class that a run names may be: both only compute, whatever arguments they are given. A path such as torch.load
# or facereel.files.os.remove is none of them, and neither is a model, which would be told by the run whom to trust.
_BASES = (nn.Module, torch.optim.Optimizer)
_PACKAGES = ("facereel.", "torch.nn.", "torch.optim.")

# What a run may say of where figures are logged beside its folder; a folder or a host is the user's to say.
_LOGGING = ("logger", "logger.wandb.project", "logger.wandb.name", "logger.wandb.offline")

# ${now:%S}, which may be harmless when it is looked at and not later, or ${oc.env:NAME}; but not ${data.size}.
_RESOLVER = r"\$\{[^}]*:[^}]*\}?"

# A run's config.yaml has about 10,000 bytes and is 8 deep. PyYAML takes seconds for a megabyte, and the square of that
# for what is nested.
_LARGEST_CONFIG = 2**17
_DEEPEST_CONFIG = 50


def first_difference(then: Any, now: Any, name: str = "") -> str | None:
    """Name the first value that differs, as `head.n_bits=8, not 16`; None if none does.

    Args:
        then: a part of a run's configuration.
        now: the same part of another.
        name: of the part.

    Examples:
        >>> first_difference({"head": {"n_bits": 8}}, {"head": {"n_bits": 16}})
        'head.n_bits=8, not 16'
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else f"{name}={then}, not {now}"
    keys = dict.fromkeys([*then, *now])
    found = (first_difference(then.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
    return next((difference for difference in found if difference), None)


def config_dir() -> Path:
    """The configuration folder: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def config_groups() -> set[str]:
    """Names of the groups."""
    return {folder.name for folder in config_dir().iterdir() if folder.is_dir()}


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in: RUN, RUN/model or RUN/stage1/best.ckpt."""
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "overrides.json").is_file() and (folder / "config.yaml").is_file():
            return folder
    return None


def check_links(run: Path) -> None:
    """Refuse a run that is written into if one of its files or folders is a link out of it.

    Raises:
        UserError: for the first that is.
    """
    # Not deeper: what wandb keeps in its folder's folders links to its own logs.
    for path in (*run.glob("*"), *run.glob("*/*")):
        if path.is_symlink():
            inside(run, path)


def read_record(run: Path, name: str, *keys: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read one of a run's JSON files.

    Raises:
        UserError: if it is absent or damaged, or lacks one of the keys.
    """
    file = run / name
    try:
        record = read_json(file, largest)
        if not isinstance(record, dict) or not set(keys) <= record.keys():
            raise ValueError("it does not hold what a run writes")
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it holds no {file.name}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return record


def read_config(run: Path) -> DictConfig:
    """Read a run's config.yaml.

    Aliases are refused, of which a few lines stand for more than any memory holds, and interpolations, which read
    other things at other times; a run writes neither.

    Raises:
        UserError: if it is absent or damaged.
    """
    file = run / "config.yaml"
    try:
        if (size := file.stat().st_size) > _LARGEST_CONFIG:
            raise ValueError(f"it has {size:,} bytes, more than the {_LARGEST_CONFIG:,} that are read")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases, which no run writes")
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
                raise ValueError(f"it has {event.value:.50}, where a run writes what that stands for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_CONFIG:
                raise ValueError("it is nested too deep")
        config = OmegaConf.create(text)
        if not isinstance(config, DictConfig):
            raise ValueError("it does not hold what a run writes")
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it holds no {file.name}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    return config


def check_option(group: str, option: Any, origin: Path) -> None:
    """Refuse an option of a group that is no plain name: Hydra would read any file, `../../x` for one.

    Raises:
        UserError: if it is a path.
    """
    for name in option if isinstance(option, list) else [option]:
        if not (name is None or (isinstance(name, str) and re.fullmatch(r"\w+", name))):
            raise UserError(f"{origin} is damaged: it names {group}={name}, which is no option of {group}")


def check_overrides(overrides: Any, origin: Path) -> list[str]:
    """Refuse saved overrides that are anything but keys and values of ours, such as Hydra's own options.

    Args:
        overrides: of a run's overrides.json.
        origin: the run, for messages.

    Raises:
        UserError: for the first that is.
    """
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{origin} is damaged: its overrides are no list of key=value")
    for line in overrides:
        try:
            override = OverridesParser.create().parse_override(line)
        except HydraException as error:
            raise UserError(f"{origin} is damaged: its override {line} is no key=value") from error
        if re.match(r"hydra\b", override.key_or_group) or (override.package or "").startswith("hydra"):
            raise UserError(f"{origin} is damaged: its override {line} is one of Hydra's, which no run writes")
        if override.key_or_group.startswith("logger") and override.key_or_group not in _LOGGING:
            if not is_trusted("pytorch_lightning.loggers"):
                raise UserError(
                    f"{origin} says by {line} where to log; if you know where it comes from, give --trust "
                    "pytorch_lightning.loggers"
                )
        elif override.key_or_group in config_groups():
            check_option(override.key_or_group, override.value(), origin)
    return overrides


def check_targets(config: DictConfig, origin: Path) -> None:
    """Refuse a configuration, made of what a run says alone, that names what no run may.

    Raises:
        UserError: for the first `_target_` that is neither of configs/, nor a module or an optimizer of facereel or
            torch, nor trusted, and for the first value that would be computed by a resolver.
    """
    # As it is written, since interpolations of other nodes come to what is written there.
    for place, value in _leaves(OmegaConf.to_container(config)):
        text = str(value)
        if any(found not in _shipped(_RESOLVER) for found in re.findall(_RESOLVER, text)):
            raise UserError(f"{origin} has {place}={text}: a run that is read may not compute values; write it out")
        if place.rpartition(".")[2] == "_target_" and text != "???" and not _may_be_named(text):
            module = text.rpartition(".")[0]
            raise UserError(
                f"{origin} names {place}={text}, which is no module or optimizer of facereel or torch; if you know "
                f"where it comes from, give --trust {module}"
            )


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict | list):
        yield place, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, f"{place}.{key}" if place else str(key))


def _may_be_named(target: str) -> bool:
    module, _, name = target.rpartition(".")
    if target in _shipped(r"_target_: *([\w.]+)") or is_trusted(module):
        return True
    if not target.startswith(_PACKAGES) or "__" in module:  # a __main__ runs when it is imported
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, _BASES) and not issubclass(found, VideoHasher)


@cache
def _shipped(pattern: str) -> frozenset[str]:
    """What in the files in configs/ is of a pattern."""
    texts = [file.read_text(encoding="utf-8") for file in config_dir().rglob("*.yaml")]
    return frozenset(found for text in texts for found in re.findall(pattern, text))
