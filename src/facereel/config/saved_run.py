"""What the folder of a run says. It may be untrusted: what it names must be facereel's, torch's or trusted."""

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
from facereel.errors import UserError
from facereel.storage.trust import is_trusted
from facereel.storage.untrusted import LARGEST_JSON, read_json, resolve_inside

# A class that a run names must have one of these bases, which only compute, whatever arguments they are given. A path
# such as torch.load or facereel.storage.files.os.remove has none.
_BASES = {"torch.nn.modules.module.Module", "torch.optim.optimizer.Optimizer"}
_PACKAGES = ("facereel.", "torch.nn.", "torch.optim.")
# A model must not be a part of a model: the run would tell it whom to trust.
_FORBIDDEN_BASE = "facereel.models.hasher.VideoHasher"

# The keys of a logger that a run may set; a folder or a host is for the user to choose.
_LOGGING = ("logger", "logger.wandb.project", "logger.wandb.name", "logger.wandb.offline")

# ${now:%S}, which may be harmless when it is checked and not later, or ${oc.env:NAME}; but not ${data.size}.
_RESOLVER = r"\$\{[^}]*:[^}]*\}?"

# A run's config.yaml has about 10,000 bytes and a depth of 8. PyYAML takes seconds for a megabyte, and quadratic time
# for deep nesting.
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


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint is in: RUN, RUN/model or RUN/stage1/best.ckpt."""
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "overrides.json").is_file() and (folder / "config.yaml").is_file():
            return folder
    return None


def check_links(run: Path) -> None:
    """Refuse a run to be written into if one of its files or folders is a link out of it.

    Raises:
        UserError: for the first such link.
    """
    # Not deeper: wandb's folders contain links to its own logs.
    for path in (*run.glob("*"), *run.glob("*/*")):
        if path.is_symlink():
            resolve_inside(run, path)


def read_record(run: Path, name: str, *keys: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read one of a run's JSON files.

    Args:
        run: its folder.
        name: of the file.
        keys: that the file must have.
        largest: size in bytes above which it is not read.

    Raises:
        UserError: if it is absent or damaged, or lacks one of the keys.
    """
    file = run / name
    try:
        record = read_json(file, largest)
        if not isinstance(record, dict) or not set(keys) <= record.keys():
            raise ValueError("it lacks what a run writes")
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it has no {file.name}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return record


def read_config(run: Path) -> DictConfig:
    """Read a run's config.yaml.

    Aliases are refused, since a few lines of them can stand for more than any memory holds, and interpolations, which
    read other things at other times; a run writes neither.

    Raises:
        UserError: if it is absent or damaged.
    """
    file = run / "config.yaml"
    try:
        if (size := file.stat().st_size) > _LARGEST_CONFIG:
            raise ValueError(f"it has {size:,} bytes, more than the limit of {_LARGEST_CONFIG:,}")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases, which no run writes")
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
                raise ValueError(f"it has {event.value:.50}, where a run writes the value itself")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_CONFIG:
                raise ValueError("it is nested too deep")
        config = OmegaConf.create(text)
        if not isinstance(config, DictConfig):
            raise ValueError("it lacks what a run writes")
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it has no {file.name}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    return config


def check_option(group: str, option: Any, origin: Path) -> None:
    """Refuse an option of a group that is not a plain name: Hydra would read any file, such as `../../x`.

    Args:
        group: name of the group.
        option: a name, several, or None.
        origin: where the option was read, for the message.

    Raises:
        UserError: if it is a path.
    """
    for name in option if isinstance(option, list) else [option]:
        if not (name is None or (isinstance(name, str) and re.fullmatch(r"\w+", name))):
            raise UserError(f"{origin} is damaged: it names {group}={name}, which is no option of {group}")


def check_overrides(overrides: Any, origin: Path) -> list[str]:
    """Refuse saved overrides other than keys and values of facereel's, such as Hydra's own options.

    Args:
        overrides: of a run's overrides.json.
        origin: the run, for messages.

    Raises:
        UserError: for the first such override.
    """
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{origin} is damaged: its overrides are no list of key=value")
    for line in overrides:
        try:
            override = parse(line)
        except HydraException as error:
            raise UserError(f"{origin} is damaged: its override {line} is no key=value") from error
        key = override.key_or_group
        if re.match(r"hydra\b", key) or (override.package or "").startswith("hydra"):
            raise UserError(f"{origin} is damaged: its override {line} is one of Hydra's, which no run writes")
        if key.startswith("logger") and key not in _LOGGING:
            if not is_trusted("pytorch_lightning.loggers"):
                raise UserError(
                    f"{origin} says by {line} where to log; if you trust it, give --trust pytorch_lightning.loggers"
                )
        elif key in config_groups():
            check_option(key, override.value(), origin)
    return overrides


def check_targets(config: DictConfig, origin: Path) -> None:
    """Refuse a configuration that names what no run may; it is composed from a run's own words alone.

    Args:
        config: the configuration.
        origin: the run, for messages.

    Raises:
        UserError: for the first `_target_` that is neither in configs/, nor a module or an optimizer of facereel or
            torch, nor trusted, and for the first value that a resolver would compute.
    """
    # As written: interpolations of other nodes lead to values that are checked where they are written.
    for key, value in leaves(OmegaConf.to_container(config), into_lists=True):
        text = str(value)
        if any(found not in _shipped(_RESOLVER) for found in re.findall(_RESOLVER, text)):
            raise UserError(f"{origin} has {key}={text}: a run that is read may not compute values; write it out")
        if key.rpartition(".")[2] == "_target_" and text != "???" and not _may_be_named(text):
            raise UserError(
                f"{origin} names {key}={text}, which is no module or optimizer of facereel or torch; if you trust it, "
                f"give --trust {text.rpartition('.')[0]}"
            )


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
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__} if isinstance(found, type) else set()
    return bool(bases & _BASES) and _FORBIDDEN_BASE not in bases


@cache
def _shipped(pattern: str) -> frozenset[str]:
    """All matches of a pattern in the files of configs/."""
    texts = [file.read_text(encoding="utf-8") for file in config_dir().rglob("*.yaml")]
    return frozenset(found for text in texts for found in re.findall(pattern, text))
