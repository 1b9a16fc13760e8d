"""Compose the files of configs/ with overrides, and report errors in one line."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from facereel.config.overrides import parse, quoted
from facereel.config.schema import SCHEMAS, check
from facereel.errors import UserError


def config_dir() -> Path:
    """Return the configuration folder, which is inside the wheel or at the top of a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def config_groups() -> set[str]:
    """Return the names of the config groups."""
    return {folder.name for folder in config_dir().iterdir() if folder.is_dir()}


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose and check a command's configuration; an invalid override is a `UserError`.

    Args:
        name: "train", "evaluate" or "reproduce".
        overrides: overrides in Hydra's grammar, without sweeps.

    Returns:
        The configuration.
    """
    return compose_with_choices(name, overrides)[0]


def compose_with_choices(name: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Compose and check a command's configuration, and return its choices too.

    Args:
        name: "train", "evaluate" or "reproduce".
        overrides: overrides in Hydra's grammar, without sweeps.

    Returns:
        The configuration, and the chosen option of each group.

    Raises:
        UserError: if an override is invalid; the message has one line.
    """
    with one_line_errors(), initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        for override in map(parse, overrides):
            group = override.key_or_group
            if group in config_groups() and not (override.is_delete() or isinstance(override.value(), str | list)):
                options = sorted(path.stem for path in (config_dir() / group).glob("[a-z]*.yaml"))
                raise UserError(f"{override.input_line}: must be one of {', '.join(options)}")
        config = compose(name, list(overrides), return_hydra_config=True)
    choices = {group: str(choice) for group, choice in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    check(config, SCHEMAS[name])
    return config, choices


def compose_data(group: str, **options: str) -> DictConfig:
    """Return the configuration of an option of `data`, with some keys set.

    Args:
        group: name of the option, such as "youtube_faces".
        **options: values of keys.
    """
    overrides = [f"data={group}", *(f"data.{name}={quoted(value)}" for name, value in options.items())]
    data: DictConfig = compose_config("evaluate", overrides).data
    return data


@contextmanager
def one_line_errors(prefix: str = "") -> Iterator[None]:
    """Turn errors of Hydra, OmegaConf and the system into a `UserError` of one line.

    Args:
        prefix: text before the message.

    Raises:
        UserError: for such an error in the block.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        raise UserError(prefix + _message(error)) from error


def _message(error: BaseException) -> str:
    """Return the message of a `UserError` among the causes, or else Hydra's message, which names the key."""
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            break
        cause = cause.__cause__
    if found := re.fullmatch(r"Error in call to target .*full_key: (\S+)", str(error), re.DOTALL):
        text = str(error.__cause__ or type(error.__cause__).__name__)
        # An error about an argument starts with its name, which completes the key of the part.
        return (
            f"{found[1]}.{text}" if isinstance(cause, UserError) and re.match(r"\w+=", text) else f"{found[1]}: {text}"
        )
    if isinstance(cause, UserError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Skip lines for developers.
    return "; ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
