"""The train command: Hydra's command line, and one process per device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from facereel.cli.options import Trust
from facereel.errors import UserError
from facereel.storage.trust import trusted_modules

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Hydra's own options, https://hydra.cc/docs/advanced/hydra-command-line-flags/
_HYDRA_OPTIONS = (
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run"),
    *("-m", "--multirun", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "--experimental-rerun", "-i", "--info"),
)


def train_command(context: typer.Context, trust: Trust = None) -> None:
    """Train a model configured by overrides, and evaluate it.

    Example: facereel train experiment=dhh data=youtube_faces data.root=DIR data.stills_root=DIR head.n_bits=48

    A sweep: facereel train -m experiment=dhh head.n_bits=12,24,48 seed=0,1

    Resume a run: facereel train resume=RUN_DIR. All options: facereel train --cfg job

    To resume a run that uses your own classes, add --trust MODULE.
    """
    train(context.args)


def train(given: list[str]) -> None:
    """Train with Hydra's command line: overrides, and options such as -m.

    On several devices this starts one process per device, unless torchrun or SLURM started them. If one fails, the
    program exits with its code. A user's mistake is a `UserError`.

    Args:
        given: overrides and Hydra's options.
    """
    from facereel.config.build import fill_from_manifest
    from facereel.config.compose import one_line_errors
    from facereel.config.overrides import quoted, readable, refuse_options, take
    from facereel.parallel import distributed

    refuse_options(given, _HYDRA_OPTIONS)
    with one_line_errors():
        arguments = fill_from_manifest([readable(argument) for argument in given])
        arguments, resume = take(arguments, "resume")
        if resume is not None:
            arguments = [*_saved_overrides(Path(resume)), *arguments, f"out={quoted(resume)}"]
        cfg, choices, is_several = _compose(arguments)
        if is_several:
            if not distributed.launched_world_size():
                _launch(distributed.n_devices(cfg.trainer), given)
                return
            distributed.join_process_group(cfg.trainer)
            # The name of the folder may contain the time, so all processes take it from the first.
            cfg.out = distributed.run_on_rank_zero(lambda: str(Path(cfg.out).absolute()))
            arguments = [*arguments, f"out={quoted(cfg.out)}"]
    if _is_job(arguments):
        mistakes = _run_job(cfg, {"overrides": arguments, "choices": choices}, resumed=resume is not None)
    else:
        mistakes = _run_hydra(arguments, resumed=resume is not None)
    if mistakes:
        distributed.let_first_report()
    distributed.leave_process_group()
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else UserError(f"{len(mistakes)} jobs failed; the first: {mistakes[0]}")


def _saved_overrides(run: Path) -> list[str]:
    """Return the overrides of a run to resume, which may be untrusted."""
    from facereel.config.compose import compose_config
    from facereel.config.overrides import quoted
    from facereel.config.saved_run import check_links, check_overrides, check_targets, read_record

    check_links(run)
    saved = check_overrides(read_record(run, "overrides.json", "overrides")["overrides"], run)
    check_targets(compose_config("train", [*saved, f"out={quoted(str(run))}"]), run)
    return saved


def _compose(arguments: list[str]) -> tuple[DictConfig, dict[str, str], bool]:
    """Return the configuration, its choices, and whether it is of a run on several processes.

    Raises:
        UserError: if the configuration has a mistake, or is a sweep on several processes.
    """
    from facereel.config.compose import compose_with_choices, config_groups
    from facereel.config.overrides import parse
    from facereel.parallel import distributed

    overrides = list(filter(_is_override, arguments))
    parsed = {override: parse(override) for override in overrides}
    if is_sweep := _is_sweep(arguments):  # keys may depend on a swept choice: each job is checked separately
        overrides = [
            line
            for line, override in parsed.items()
            if not override.is_sweep_override()
            and (override.key_or_group in config_groups() or override.key_or_group.startswith("trainer."))
        ]
    cfg, choices = compose_with_choices("train", overrides)
    is_several = distributed.launched_world_size() > 1 or distributed.n_devices(cfg.trainer) > 1
    if is_several and is_sweep:
        raise UserError("-m: a sweep runs each job in one process; start runs on several devices one by one")
    runs_nothing = len(overrides) < len(arguments)  # for example --cfg job
    return cfg, choices, is_several and not runs_nothing


def _launch(n: int, given: list[str]) -> None:
    """Run this command in n processes; exit with the code of the first that fails."""
    from facereel.parallel import launch

    trust = [f"--trust={module}" for module in trusted_modules()]
    if code := launch.launch(n, [sys.executable, "-m", "facereel", "train", *trust, *given]):
        sys.exit(code)


def _run_job(cfg: DictConfig, given: dict[str, Any], resumed: bool, of_sweep: bool = False) -> list[UserError]:
    """Train in the folder `cfg.out`, and return the error if it failed."""
    from facereel.config.build import check_training
    from facereel.config.compose import one_line_errors
    from facereel.config.schema import Train, check
    from facereel.training import pipeline

    overrides = [override for override in given["overrides"] if not override.startswith("out=")]
    try:
        with one_line_errors(f"job {' '.join(overrides)}: " if of_sweep else ""):
            check(cfg, Train)
            out = Path(cfg.out).absolute()
            check_training(cfg, own_split=(out / "split.json").exists())
            pipeline.train(cfg, out, {**given, "overrides": overrides}, resumed)
    except UserError as error:
        return [error]
    return []


def _run_hydra(arguments: list[str], resumed: bool) -> list[UserError]:
    """Return the errors of the jobs that failed, after Hydra did what its options say, such as the jobs of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from facereel.config.compose import config_dir, one_line_errors

    @hydra.main(version_base="1.3", config_path=str(config_dir().resolve()), config_name="train")
    def job(cfg: DictConfig) -> None:
        hydra_config: Any = HydraConfig.get()
        cfg.out = hydra_config.runtime.output_dir  # in a sweep, the folder of the job
        overrides = list(hydra_config.overrides.task)
        choices = {group: str(choice) for group, choice in hydra_config.runtime.choices.items()}
        # Hydra would print its own lines about an exception that leaves a job, so none does.
        mistakes.extend(_run_job(cfg, {"overrides": overrides, "choices": choices}, resumed, _is_sweep(arguments)))

    mistakes: list[UserError] = []
    argv, sys.argv = sys.argv, ["facereel train", *arguments]
    try:
        with one_line_errors():
            job()
    finally:
        sys.argv = argv
    return mistakes


def _is_override(argument: str) -> bool:
    return argument[:1] != "-" and ("=" in argument or argument[:1] == "~")


def _is_job(arguments: list[str]) -> bool:
    """Return whether the arguments are of one run; `hydra.main` would compose its configuration twice more."""
    return all(_is_override(argument) and "hydra" not in argument for argument in arguments)


def _is_sweep(arguments: list[str]) -> bool:
    return "-m" in arguments or "--multirun" in arguments
