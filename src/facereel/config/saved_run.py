"""Read the folder of a run, which may be untrusted: it may only name classes of facereel, torch or trusted modules."""

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from facereel.config.compose import config_dir, config_groups
from facereel.config.overrides import leaves, parse
from facereel.errors import UserError, first_line
from facereel.storage.trust import is_trusted
from facereel.storage.untrusted import LARGEST_JSON, read_json, resolve_inside

# A class that a run names must have one of these bases, which only compute, with any arguments. Functions such as
# torch.load or facereel.storage.files.os.remove are refused.
_BASES = {"torch.nn.modules.module.Module", "torch.optim.optimizer.Optimizer"}
_PACKAGES = ("facereel.", "torch.nn.", "torch.optim.")
# A model must not be part of a model: the run could then choose which modules it trusts.
_FORBIDDEN_BASE = "facereel.models.hasher.VideoHasher"

# The logger keys that a run may set. The user chooses folders and hosts.
_LOGGING = ("logger", "logger.wandb.project", "logger.wandb.name", "logger.wandb.offline")

# Matches ${now:%S}, which may be harmless when checked but not later, and ${oc.env:NAME}, but not ${data.size}.
_RESOLVER = r"\$\{[^}]*:[^}]*\}?"

# A run's config.yaml has about 10,000 bytes and a depth of 8. PyYAML takes seconds for a megabyte, and quadratic time
# for deep nesting.
_LARGEST_CONFIG = 2**17
_DEEPEST_CONFIG = 50


def first_difference(then: Any, now: Any, name: str = "") -> str | None:
    """Describe the first value that differs between two configurations.

    Args:
        then: a part of a run's configuration.
        now: the same part of another configuration.
        name: key of the part.

    Returns:
        The key and both values; None if nothing differs.

    Examples:
        >>> first_difference({"head": {"n_bits": 8}}, {"head": {"n_bits": 16}})
        'head.n_bits=8, not 16'
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else f"{name}={then}, not {now}"
    keys = dict.fromkeys([*then, *now])
    found = (first_difference(then.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
    return next((difference for difference in found if difference), None)


def run_of(checkpoint: Path) -> Path | None:
    """Return the run of a checkpoint, which is RUN, RUN/model or RUN/stage1/best.ckpt; None if there is no run."""
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "overrides.json").is_file() and (folder / "config.yaml").is_file():
            return folder
    return None


def check_links(run: Path) -> None:
    """Refuse to write to a run with a file or folder that is a link out of it, with a `UserError`.

    Args:
        run: folder of the run.
    """
    # Deeper folders are not checked: wandb's contain links to its own logs.
    for path in (*run.glob("*"), *run.glob("*/*")):
        if path.is_symlink():
            resolve_inside(run, path)


def read_record(run: Path, name: str, *keys: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read a JSON file of a run.

    Args:
        run: folder of the run.
        name: name of the file.
        *keys: keys that the file must have.
        largest: size limit in bytes.

    Returns:
        The content of the file.

    Raises:
        UserError: if the file is absent or damaged, or lacks a key.
    """
    file = run / name
    try:
        record = read_json(file, largest)
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it has no {file.name}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not isinstance(record, dict) or not set(keys) <= record.keys():
        raise UserError(f"{file} is damaged: it lacks keys that a run writes")
    return record


def read_config(run: Path) -> DictConfig:
    """Read config.yaml of a run.

    A run writes neither aliases nor interpolations, so both are refused: a few lines of aliases can expand beyond any
    memory, and interpolations can read different values at different times.

    Args:
        run: folder of the run.

    Returns:
        The configuration.

    Raises:
        UserError: if the file is absent or damaged.
    """
    file = run / "config.yaml"
    try:
        return _load_config(file)
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it has no {file.name}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged: {first_line(error)}") from error


def _load_config(file: Path) -> DictConfig:
    if (size := file.stat().st_size) > _LARGEST_CONFIG:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {_LARGEST_CONFIG:,}")
    text = file.read_text(encoding="utf-8")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, which a run does not write")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise ValueError(f"it has {event.value:.50}, but a run writes the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_CONFIG:
            raise ValueError("it is nested too deeply")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise ValueError("it lacks keys that a run writes")
    return config


def check_option(group: str, option: Any, origin: Path) -> None:
    """Refuse an option of a config group that is not a plain name: Hydra would read any file, such as `../../x`.

    Args:
        group: name of the group.
        option: a name, a list of names, or None.
        origin: file or folder that contains the option, for the message.

    Raises:
        UserError: if the option is not a plain name.
    """
    for name in option if isinstance(option, list) else [option]:
        if not (name is None or (isinstance(name, str) and re.fullmatch(r"\w+", name))):
            raise UserError(f"{origin} is damaged: it names {group}={name}, which is not an option of {group}")


def check_overrides(overrides: Any, origin: Path) -> list[str]:
    """Refuse saved overrides that are not keys of facereel, such as Hydra's own options.

    Args:
        overrides: the overrides in a run's overrides.json.
        origin: folder of the run, for messages.

    Returns:
        The overrides.

    Raises:
        UserError: for the first override that is not allowed.
    """
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{origin} is damaged: its overrides are not a list of key=value")
    for line in overrides:
        try:
            override = parse(line)
        except HydraException as error:
            raise UserError(f"{origin} is damaged: its override {line} is not key=value") from error
        key = override.key_or_group
        if re.match(r"hydra\b", key) or (override.package or "").startswith("hydra"):
            raise UserError(
                f"{origin} is damaged: its override {line} is an option of Hydra, which a run does not write"
            )
        if key.startswith("logger") and key not in _LOGGING:
            if not is_trusted("pytorch_lightning.loggers"):
                raise UserError(
                    f"{origin} chooses where to log by {line}; if you trust it, add --trust pytorch_lightning.loggers"
                )
        elif key in config_groups():
            check_option(key, override.value(), origin)
    return overrides


def check_targets(config: DictConfig, origin: Path) -> None:
    """Refuse a run's configuration with classes that a run may not use, or with values to compute.

    Args:
        config: the configuration, composed from the run's values alone.
        origin: folder of the run, for messages.

    Raises:
        UserError: for the first `_target_` that is neither in configs/, nor a module or optimizer of facereel or torch,
            nor trusted; and for the first value that a resolver would compute.
    """
    # Interpolations are not resolved: the values they refer to are checked at their own keys.
    for key, value in leaves(OmegaConf.to_container(config), into_lists=True):
        text = str(value)
        if any(found not in _shipped(_RESOLVER) for found in re.findall(_RESOLVER, text)):
            raise UserError(f"{origin} has {key}={text}: a run must not compute values; replace it by the value")
        if key.rpartition(".")[2] == "_target_" and text != "???" and not _may_be_named(text):
            raise UserError(
                f"{origin} names {key}={text}, which is not a module or optimizer of facereel or torch; if you trust "
                f"it, add --trust {text.rpartition('.')[0]}"
            )


def _may_be_named(target: str) -> bool:
    module, _, name = target.rpartition(".")
    if target in _shipped(r"_target_: *([\w.]+)") or is_trusted(module):
        return True
    if not target.startswith(_PACKAGES) or "__" in module:  # importing a __main__ runs it
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__} if isinstance(found, type) else set()
    return bool(bases & _BASES) and _FORBIDDEN_BASE not in bases


@cache
def _shipped(pattern: str) -> frozenset[str]:
    """Return all matches of a pattern in the files of configs/."""
    texts = [file.read_text(encoding="utf-8") for file in config_dir().rglob("*.yaml")]
    return frozenset(found for text in texts for found in re.findall(pattern, text))
