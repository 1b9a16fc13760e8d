"""The demo command."""

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the run and its report.")] = Path("demo"),
) -> None:
    """Train on real faces (ORL) on the CPU, evaluate, and write a report.

    Takes the same overrides as train. Example: facereel demo --out demo
    """
    from facereel.cli.train import train
    from facereel.config.overrides import quoted

    train(["experiment=demo", f"out={quoted(str(out))}", *context.args])
