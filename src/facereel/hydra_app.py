"""Hydra behind the commands that take overrides: composing, sweeping, and errors in one line."""

from __future__ import annotations

import json
import re
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

from facereel import processes
from facereel.errors import UserError
from facereel.saved_run import (
    check_links,
    check_option,
    check_overrides,
    check_targets,
    config_groups,
    read_config,
    read_record,
    run_of,
)
from facereel.saved_run import config_dir as config_dir
from facereel.trust import trusted_modules

_MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)

# Keys that hold paths; saved as absolute ones, so that a run can be continued from anywhere.
_PATHS = (
    *("data.root", "data.stills_root", "data.manifest", "data.detector", "protocol.pairs", "protocol.file"),
    *("init_from", "encoder.weights", "out", "resume", "checkpoint", "published"),
)
# Values of these keys that are no paths.
_NAMES = (None, "", "mtcnn", "pretrained")

# Keys that null switches off where they have a value.
_MAY_BE_NULL = re.compile(r"stages\.\w+(\.max_steps)?|loss\.\w+\.miner|augment\..+|logger\..+")

# Hydra's own options, https://hydra.cc/docs/advanced/hydra-command-line-flags/
_HYDRA_OPTIONS = (
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run"),
    *("-m", "--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "--experimental-rerun", "-i", "--info"),
)


def train_with(arguments: list[str]) -> None:
    """Run the train command with Hydra's command line: overrides, and options such as -m.

    On several devices it runs again in as many processes, unless torchrun or SLURM started them.

    Raises:
        SystemExit: if those processes fail, with the code of the first that did.
        UserError: for a mistake of the user's, in one line.
    """
    _refuse_options(arguments, _HYDRA_OPTIONS)
    given = arguments
    arguments = _with_source([_readable(argument) for argument in arguments])
    arguments, resume = _take(arguments, "resume")
    saved: list[str] = []
    if resume is not None:
        run = Path(resume)
        check_links(run)
        saved = check_overrides(read_record(run, "overrides.json", "overrides")["overrides"], run)
        arguments = [*saved, *arguments, f"out={quoted(resume)}"]
    try:
        with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            if resume is not None:
                check_targets(compose("train", [*saved, f"out={quoted(resume)}"]), Path(resume))
            several = _in_several(arguments, _check_types("train", arguments))
            if several is not None:
                if _start_or_join(several, given):
                    return
                # The name of a run's folder may hold the time.
                folder = processes.from_first(lambda: str(Path(several.out).absolute()))
                arguments = [*arguments, f"out={quoted(folder)}"]
    except _MISTAKES as error:
        raise _as_user_error(error) from error

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
    processes.leave()
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else UserError(f"{len(mistakes)} jobs failed; the first: {mistakes[0]}")


def _in_several(arguments: list[str], defaults: DictConfig) -> DictConfig | None:
    """The configuration of a run that several processes share, started already or to be started; None of any other.

    Args:
        arguments: of the command.
        defaults: the configuration before values are overridden; those of the trainer are put into it.

    Raises:
        UserError: for a sweep over runs of several processes.
    """
    overrides = [argument for argument in arguments if argument[:1] != "-" and ("=" in argument or argument[:1] == "~")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    parsed = [override for override in parsed if not override.is_sweep_override()]
    for override in parsed:
        if override.key_or_group.startswith("trainer.") and not override.is_delete():
            OmegaConf.update(defaults, override.key_or_group, override.value(), force_add=True)
    if processes.n_started() <= 1 and processes.n_devices(defaults.trainer) == 1:
        return None
    if _is_sweep(arguments):
        raise UserError("-m: a sweep's runs have one process each; start runs of several one by one")
    if len(overrides) < len(arguments):  # --cfg job, and the like, run nothing
        return None
    return compose("train", [override.input_line for override in parsed])


def _start_or_join(cfg: DictConfig, given: list[str]) -> bool:
    """Start the processes of a run, and wait for them; or join those that were started, and return False.

    Raises:
        SystemExit: if one of them fails.
    """
    if processes.n_started():
        processes.join(cfg.trainer)
        return False
    from facereel.launch import launch

    trust = [f"--trust={module}" for module in trusted_modules()]
    code = launch(processes.n_devices(cfg.trainer), [sys.executable, "-m", "facereel", "train", *trust, *given])
    if code:
        sys.exit(code)
    return True


def evaluate_with(arguments: list[str]) -> None:
    """Run the evaluate command; what is not given of data, protocol and seed is that of the checkpoint's run.

    Raises:
        UserError: for a mistake of the user's, in one line.
    """
    given = _with_source([_readable(argument) for argument in arguments])
    _, checkpoint = _take(given, "checkpoint")
    if checkpoint is None:
        raise UserError("facereel evaluate needs checkpoint=PATH, a run's folder or a checkpoint file")
    run = run_of(Path(checkpoint))
    try:
        with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            inherited = _inherited(run, given)
            _check_types("evaluate", [*inherited, *given])
            cfg = compose("evaluate", [*inherited, *given])
        from facereel.evaluation.command import evaluate

        searched = ("data", "protocol", "seed")
        own = run is not None and not any(argument.lstrip("+~").startswith(searched) for argument in given)
        evaluate(cfg, run, own_split=own)
    except _MISTAKES as error:
        raise _as_user_error(error) from error


def reproduce_with(arguments: list[str]) -> None:
    """Run the reproduce command: keys of configs/reproduce.yaml are its own, all others are overrides of every run.

    Raises:
        UserError: for a mistake of the user's, in one line.
    """
    if arguments == ["--cfg", "job"]:
        print((config_dir() / "reproduce.yaml").read_text(encoding="utf-8"), end="")
        return
    _refuse_options(arguments)
    if words := [argument for argument in arguments if "=" not in argument]:
        raise UserError(f"{words[0]}: what is configured is given as key=value")
    given = [_readable(argument) for argument in arguments]
    own_keys = ("table", *OmegaConf.load(config_dir() / "reproduce.yaml"))
    own = [argument for argument in given if re.split(r"[.=]", argument)[0] in own_keys]
    extra = [argument for argument in given if argument not in own]
    try:
        with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
            _check_types("reproduce", own)
            cfg = compose("reproduce", own)
            cfg.out = str(Path(cfg.out).expanduser().absolute())
            compose("train", extra)  # a mistake in them would fail every run
        from facereel.tables.command import reproduce

        reproduce(cfg, extra, " ".join(["facereel reproduce", *arguments]))
    except _MISTAKES as error:
        raise _as_user_error(error) from error


def compose_data(group: str, **options: str) -> DictConfig:
    """The options of a `data` group, with some of them set."""
    overrides = [f"data={group}", *(f"data.{name}={quoted(value)}" for name, value in options.items())]
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        data: DictConfig = compose("evaluate", overrides).data
        return data


def _refuse_options(arguments: list[str], known: tuple[str, ...] = ()) -> None:
    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise UserError(f"there is no option {argument}; what is configured is given as key=value")


def _with_source(arguments: list[str]) -> list[str]:
    """Fill in what a prepared data set says of itself, if data.manifest is given: its data group, and its crops'.

    Raises:
        UserError: if something else is given.
    """
    given_last = next((argument for argument in reversed(arguments) if argument.startswith("data.manifest=")), None)
    if given_last is None:
        return arguments
    override = OverridesParser.create().parse_override(given_last)
    if override.is_sweep_override() or override.value() in (None, ""):
        return arguments
    from facereel.data.load import read_prepared

    manifest = str(override.value())
    about = read_prepared(Path(manifest))[1]
    if about.get("data") is None:
        raise UserError(f"{manifest} does not say which option of data it is of: run facereel prepare again")
    check_option("data", about["data"], Path(manifest))
    known = {"data": about["data"], "data.crops": about["crops"]}
    known |= {f"data.{name}": about["settings"][name] for name in ("margin", "detector")}
    filled = []
    for key, value in known.items():
        _, given = _take(arguments, key)
        if given is None:
            filled.append(f"{key}={_literal(value)}")
        elif given != str(value) and (key, given) != ("data.crops", "None"):  # null asks for any
            raise UserError(f"data.manifest={manifest} was prepared with {key}={value}, not {key}={given}")
    return [*arguments, *filled]


def quoted(value: str) -> str:
    """Quote a value so that Hydra's grammar takes it as it is."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _readable(argument: str) -> str:
    """Quote the value of key=value if Hydra cannot parse it, as a path with a space; make paths absolute."""
    key, separator, value = argument.partition("=")
    if argument.startswith("-") or not separator:
        return argument
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        argument = f"{key}={quoted(value)}"
        parsed = OverridesParser.create().parse_override(argument)
    if (
        (key in _PATHS or key.startswith("sources."))
        and not parsed.is_sweep_override()
        and parsed.value() not in _NAMES
    ):
        return f"{key}={quoted(str(Path(str(parsed.value())).expanduser().absolute()))}"
    return argument


def _check_types(name: str, arguments: list[str]) -> DictConfig:
    """Refuse a value of another kind than the default it replaces: a word for a number, a fraction for a count.

    Returns:
        The defaults.
    """
    parsed = [OverridesParser.create().parse_override(a) for a in arguments if not a.startswith("-") and "=" in a]
    groups = config_groups()
    chosen = [p for p in parsed if p.key_or_group in groups and not p.is_sweep_override()]
    for choice in chosen:
        if not choice.is_delete() and not isinstance(choice.value(), str | list):
            options = sorted(path.stem for path in (config_dir() / choice.key_or_group).glob("[a-z]*.yaml"))
            raise UserError(f"{choice.input_line}: must be one of {', '.join(options)}")
    defaults = compose(name, [choice.input_line for choice in chosen])
    for override in parsed:
        key = override.key_or_group
        if key in groups or override.is_sweep_override() or override.is_delete():
            continue
        if key == "trainer.devices":  # of several kinds: processes.devices_of looks at it
            continue
        default = OmegaConf.select(defaults, key, throw_on_missing=False)
        value = override.value()
        if value is None and _MAY_BE_NULL.fullmatch(key):
            continue
        if isinstance(default, DictConfig) and not isinstance(value, dict):
            first = str(next(iter(default), "NAME"))
            raise UserError(f"{override.input_line}: must have keys of its own, such as {key}.{first}")
        for kind, accepted, words in (
            (bool, bool, "true or false"),
            (int, int, "a whole number"),
            (float, (int, float), "a number"),
        ):
            if type(default) is kind:
                if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
                    raise UserError(f"{override.input_line}: must be {words}, such as {default}")
                break
    return defaults


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


def _inherited(run: Path | None, given: list[str]) -> list[str]:
    """The run's seed, data and protocol as overrides, but for groups that the user chooses anew."""
    if run is None:
        return []
    choices = read_record(run, "overrides.json", "choices")["choices"]
    config: Any = OmegaConf.to_container(read_config(run))
    try:
        overrides = [f"seed={int(config['seed'])}"]
        inherited = {group: (choices[group], list(_leaves(config[group]))) for group in ("data", "protocol")}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run} is damaged: it does not say what data it was trained on") from error
    for group, (option, values) in inherited.items():
        check_option(group, option, run)
        if any(argument.startswith(f"{group}=") for argument in given):
            continue
        overrides.append(f"{group}={option}")
        raw = compose("evaluate", [overrides[-1]])[group]
        for path, value in values:
            parent, _, key = path.rpartition(".")
            if path == "manifest" and any(argument.startswith("data.root=") for argument in given):
                continue  # another root takes the place of what was prepared from the first
            node = OmegaConf.select(raw, parent) if parent else raw
            if not OmegaConf.is_interpolation(node, key):  # what follows another key, such as reader.root
                overrides.append(f"{group}.{path}={value}")
    check_targets(compose("evaluate", overrides), run)
    return overrides


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The values of a configuration as overrides have them, by their paths of keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", _literal(value)


def _literal(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _is_sweep(arguments: list[str]) -> bool:
    return "-m" in arguments or "--multirun" in arguments


def _as_user_error(error: BaseException, prefix: str = "") -> UserError:
    """The message in one line: our own if there is one, or Hydra's and OmegaConf's, which name the key."""
    if isinstance(error, OSError):
        return UserError(f"{prefix}{error.strerror}: {error.filename}" if error.filename else f"{prefix}{error}")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return UserError(f"{prefix}{cause}")
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # These lines speak to developers.
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return UserError(prefix + "; ".join(lines))
