"""Fill in overrides from data and runs, and build everything that needs no data as a check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from facereel.config.compose import compose_config
from facereel.config.overrides import INPUTS, NOT_PATHS, leaves, literal, parse, take
from facereel.config.saved_run import check_option, check_targets, read_config, read_record
from facereel.config.schema import find_mistake
from facereel.data.crop_table import read_prepared
from facereel.errors import UserError, first_line

# Number of people for the trial build of the losses.
_N_PEOPLE = 2


def fill_from_manifest(arguments: list[str]) -> list[str]:
    """Add the data group and the crop settings that a prepared data set records, if data.manifest is given.

    Args:
        arguments: the user's overrides.

    Returns:
        The overrides, with those of the data set at the end.

    Raises:
        UserError: if the arguments differ from the data set's record.
    """
    given_last = next((argument for argument in reversed(arguments) if argument.startswith("data.manifest=")), None)
    if given_last is None:
        return arguments
    override = parse(given_last)
    if override.is_sweep_override() or override.value() in (None, ""):
        return arguments
    manifest = str(override.value())
    about = read_prepared(Path(manifest))[1]
    if about.get("data") is None:
        raise UserError(f"{manifest} does not record its option of data: run facereel prepare again")
    check_option("data", about["data"], Path(manifest))
    known = {"data": about["data"], "data.crops": about["crops"]}
    known |= {f"data.{name}": about["settings"][name] for name in ("margin", "detector")}
    filled = []
    for key, value in known.items():
        _, given = take(arguments, key)
        if given is None:
            filled.append(f"{key}={literal(value)}")
        elif given != str(value) and (key, given) != ("data.crops", "None"):  # null accepts any
            raise UserError(f"data.manifest={manifest} was prepared with {key}={value}, not {key}={given}")
    return [*arguments, *filled]


def inherited(run: Path | None, given: Sequence[str]) -> list[str]:
    """Return the seed, data and protocol of a run as overrides, except for groups that the user chooses.

    Args:
        run: folder of the run, or None.
        given: the user's overrides.

    Raises:
        UserError: if the run is damaged, or names a class or option that is not allowed in a run.
    """
    if run is None:
        return []
    choices = read_record(run, "overrides.json", "choices")["choices"]
    config: Any = OmegaConf.to_container(read_config(run))
    try:
        overrides = [f"seed={int(config['seed'])}"]
        values = {
            group: {key: literal(value) for key, value in leaves(dict(config[group]))} for group in ("data", "protocol")
        }
        options = {group: choices[group] for group in values}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run} is damaged: it does not record its training data") from error
    for group, option in options.items():
        check_option(group, option, run)
        if any(argument.startswith(f"{group}=") for argument in given):
            continue
        overrides.append(f"{group}={option}")
        raw = compose_config("evaluate", [overrides[-1]])[group]
        for key, value in values[group].items():
            parent, _, name = key.rpartition(".")
            if key == "manifest" and any(argument.startswith("data.root=") for argument in given):
                continue  # the new root replaces the prepared folder
            node = OmegaConf.select(raw, parent) if parent else raw
            if not OmegaConf.is_interpolation(node, name):  # keys such as reader.root follow another key
                overrides.append(f"{group}.{key}={value}")
    check_targets(compose_config("evaluate", overrides), run)
    return overrides


def check_paths(cfg: DictConfig, own_split: bool) -> None:
    """Refuse a configuration with paths of files or folders that do not exist.

    Args:
        cfg: a composed configuration.
        own_split: whether the split is read from a run, so that `protocol` reads no files.

    Raises:
        UserError: for the first key with such a path.
    """
    unused = ["protocol.pairs", "protocol.file"] if own_split else []
    if cfg.data.manifest is not None:  # its crops may come from another machine
        unused += ["data.root", "data.detector"]
    for key in (key for key in INPUTS if key not in unused):
        value = OmegaConf.select(cfg, key)
        if value not in NOT_PATHS and not Path(str(value)).expanduser().exists():
            raise UserError(f"{key}={value}: there is no such file or folder")


def check_arguments(node: Any, key: str = "") -> None:
    """Refuse arguments with types other than their classes declare. Imports the classes.

    Args:
        node: a configuration of plain dicts and lists.
        key: key of the node in the whole configuration.

    Raises:
        UserError: for the first argument of another type.
    """
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    types = _argument_types(str(node["_target_"])) if isinstance(node, dict) and "_target_" in node else {}
    for name, value in members:
        place = f"{key}.{name}" if key else str(name)
        is_part = isinstance(value, dict) and "_target_" in value
        if name in types and not is_part and (mistake := find_mistake(value, types[name], place)):
            raise UserError(mistake)
        check_arguments(value, place)


def _argument_types(target: str) -> dict[str, Any]:
    """Return the declared argument types of a class or function by name; empty if it cannot be imported."""
    try:
        found = get_object(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    except Exception:  # any error of a user's module: building the object reports it
        return {}


def check_training(cfg: DictConfig, own_split: bool = False) -> None:
    """Build everything that training needs except data, so that mistakes are found before data is read.

    Args:
        cfg: the configuration, composed from configs/train.yaml.
        own_split: whether the split is read from the run's folder.

    Raises:
        InstantiationException: if Hydra cannot build a part; it names the key.
        UserError: if a part cannot be built for another reason.
    """
    # Lightning takes seconds to import; evaluate does not need it.
    from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

    from facereel.training.pipeline import active_stages, build_hasher, dry_run, quieten_lightning
    from facereel.training.stage import build_module, build_trainer

    check_paths(cfg, own_split)
    check_arguments(OmegaConf.to_container(cfg))
    _check_compile(cfg.trainer.compile)
    quieten_lightning()
    try:
        instantiate(cfg.protocol)
        hasher = build_hasher(cfg)
        dry_run(hasher, cfg.data.size)
        for place, stage in enumerate(active_stages(cfg).values()):
            build_module(cfg, place, stage, hasher, _N_PEOPLE).build_optimizer()
        if (transform := instantiate(cfg.augment.images)) is not None:
            transform(torch.zeros(1, 3, cfg.data.size, cfg.data.size, dtype=torch.uint8))
        build_trainer(cfg, logger=False, enable_checkpointing=False)
    except InstantiationException:
        raise
    except (ValueError, RuntimeError, AssertionError, ModuleNotFoundError, MisconfigurationException) as error:
        raise UserError(f"cannot set up the run: {first_line(error)}") from error


def _check_compile(backend: str | None) -> None:
    if backend is None:
        return
    from torch import _dynamo  # takes a second

    if backend not in (known := _dynamo.list_backends(exclude_tags=())):
        raise UserError(f"trainer.compile={backend}: must be null or one of {', '.join(known)}")
