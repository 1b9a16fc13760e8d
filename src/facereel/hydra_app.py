"""Hydra behind the commands that take overrides: composing, sweeping, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from facereel.errors import UserError

_MISTAKES = (UserError, HydraException, OmegaConfBaseException)


def config_dir() -> Path:
    """The configuration folder: inside the wheel, or at the top of a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def train_with(arguments: list[str]) -> None:
    """Run the train command with Hydra's command line: overrides, and options such as -m.

    Raises:
        UserError: for a mistake of the user's, in one line.
    """
    arguments = [_quoted_override(argument) for argument in arguments]
    arguments, resume = _take(arguments, "resume")
    if resume is not None:
        arguments = [*_saved(Path(resume))["overrides"], *arguments, f"out={quoted(resume)}"]

    @hydra.main(version_base="1.3", config_path=str(config_dir().resolve()), config_name="train")
    def job(cfg: DictConfig) -> None:
        from facereel.training.run import train

        hydra_config = HydraConfig.get()
        overrides = [override for override in hydra_config.overrides.task if not override.startswith("out=")]
        choices = {group: str(choice) for group, choice in hydra_config.runtime.choices.items()}
        # Hydra puts lines of its own before an exception that leaves a job, so none does; a sweep goes on to its next.
        try:
            train(
                cfg,
                Path(hydra_config.runtime.output_dir),
                {"overrides": overrides, "choices": choices},
                resume is not None,
            )
        except _MISTAKES as error:
            mistakes.append(_as_user_error(error, f"job {' '.join(overrides)}: " if _is_sweep(arguments) else ""))

    mistakes: list[UserError] = []
    argv, sys.argv = sys.argv, ["facereel train", *arguments]
    try:
        job()
    except _MISTAKES as error:
        raise _as_user_error(error) from error
    finally:
        sys.argv = argv
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else UserError(f"{len(mistakes)} jobs failed; the first: {mistakes[0]}")


def evaluate_with(arguments: list[str]) -> None:
    """Run the evaluate command; what is not given of data, protocol and seed is that of the checkpoint's run.

    Raises:
        UserError: for a mistake of the user's, in one line.
    """
    given = [_quoted_override(argument) for argument in arguments]
    _, checkpoint = _take(given, "checkpoint")
    if checkpoint is None:
        raise UserError("facereel evaluate needs checkpoint=PATH, a run's folder or a checkpoint file")
    run = _run_of(Path(checkpoint))
    try:
        with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            cfg = compose("evaluate", [*_inherited(run, given), *given])
        from facereel.evaluation.command import evaluate

        searched = ("data", "protocol", "seed")
        own = run is not None and not any(argument.lstrip("+~").startswith(searched) for argument in given)
        evaluate(cfg, run, own_split=own)
    except _MISTAKES as error:
        raise _as_user_error(error) from error


def quoted(value: str) -> str:
    """Quote a value so that Hydra's grammar takes it as it is."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted_override(argument: str) -> str:
    """Quote the value of key=value if Hydra cannot parse it as it stands: paths with spaces, =, or accents."""
    key, separator, value = argument.partition("=")
    if argument.startswith("-") or not separator:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return f"{key}={quoted(value)}"
    return argument


def _take(arguments: list[str], key: str) -> tuple[list[str], str | None]:
    """Split off key=VALUE, the last one if there are several, with Hydra's quotes removed."""
    value = None
    rest = []
    for argument in arguments:
        if argument.startswith(f"{key}="):
            value = str(OverridesParser.create().parse_override(argument).value())
        else:
            rest.append(argument)
    return rest, value


def _saved(run: Path) -> dict[str, Any]:
    file = run / "overrides.json"
    try:
        saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{run} is not the folder of a run: it holds no {file.name}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return saved


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in: RUN, RUN/model or RUN/stage1/best.ckpt."""
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "overrides.json").is_file() and (folder / "config.yaml").is_file():
            return folder
    return None


def _inherited(run: Path | None, given: list[str]) -> list[str]:
    """The run's seed, data and protocol as overrides, but for groups that the user chooses anew."""
    if run is None:
        return []
    choices = _saved(run)["choices"]
    config: Any = OmegaConf.load(run / "config.yaml")
    overrides = [f"seed={config.seed}"]
    for group in ("data", "protocol"):
        if any(argument.startswith(f"{group}=") for argument in given):
            continue
        overrides.append(f"{group}={choices[group]}")
        raw = compose("evaluate", [overrides[-1]])[group]
        for path, value in _leaves(config[group]):
            parent, _, key = path.rpartition(".")
            node = OmegaConf.select(raw, parent) if parent else raw
            if not OmegaConf.is_interpolation(node, key):  # what follows another key, such as reader.root
                overrides.append(f"{group}.{path}={_literal(value)}")
    return overrides


def _leaves(node: DictConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{path}{key!s}.")
        else:
            yield f"{path}{key!s}", value


def _literal(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _is_sweep(arguments: list[str]) -> bool:
    return "-m" in arguments or "--multirun" in arguments


def _as_user_error(error: BaseException, prefix: str = "") -> UserError:
    """The message in one line: our own if there is one, or Hydra's and OmegaConf's, which name the key."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return UserError(f"{prefix}{cause}")
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # These lines speak to developers.
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return UserError(prefix + "; ".join(lines))
