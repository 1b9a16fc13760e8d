"""The `facereel` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from facereel import __version__
from facereel.errors import UserError

app = typer.Typer(
    name="facereel",
    help="Face videos and face pictures as short binary codes in one Hamming space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Hydra's own options (-m, --cfg job, ...) and overrides pass through.
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a `UserError` becomes one line on stderr and exit code 2."""
    try:
        app(arguments if arguments is not None else sys.argv[1:])
    except UserError as error:
        print(f"facereel: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("facereel: interrupted; a run is continued with: facereel train resume=RUN_DIR", file=sys.stderr)
        sys.exit(130)


@app.command(context_settings=_OVERRIDES)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run and its report.")] = Path("demo"),
) -> None:
    """Train on real faces (ORL) on the CPU, evaluate, and write a report.

    Takes overrides like train. Example: facereel demo --out demo
    """
    from facereel.hydra_app import quoted, train_with

    train_with(["experiment=demo", f"out={quoted(str(out))}", *context.args])


@app.command(context_settings=_OVERRIDES)
def train(context: typer.Context) -> None:
    """Train a model as configured by overrides, and evaluate it.

    Example: facereel train experiment=dhh data=youtube_faces data.root=DIR data.stills_root=DIR head.n_bits=48

    A sweep: facereel train -m experiment=dhh head.n_bits=12,24,48 seed=0,1

    Continue a run: facereel train resume=RUN_DIR. All options: facereel train --cfg job
    """
    from facereel.hydra_app import train_with

    train_with(context.args)


@app.command(context_settings=_OVERRIDES)
def evaluate(context: typer.Context) -> None:
    """Evaluate a checkpoint; data and protocol are those of its run unless given.

    Example: facereel evaluate checkpoint=RUN_DIR data=youtube_faces data.root=DIR protocol=leave_one_out
    """
    from facereel.hydra_app import evaluate_with

    evaluate_with(context.args)


@app.command()
def doctor() -> None:
    """Tell what this installation has: versions, devices, FAISS, video codecs, demo faces.

    Example: facereel doctor
    """
    from facereel.doctor import report

    for name, value in report():
        typer.echo(f"{name:<24}{value}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    # Hydra prints its own long messages unless errors reach us as exceptions.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if version:
        typer.echo(__version__)
        raise typer.Exit
