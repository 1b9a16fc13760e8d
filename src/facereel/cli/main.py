"""The `facereel` command: registers the commands, and turns errors and signals into one line and an exit code."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from facereel import __version__
from facereel.cli.convert import convert_command
from facereel.cli.demo import demo_command
from facereel.cli.doctor import doctor_command
from facereel.cli.erase import erase_command
from facereel.cli.evaluate import evaluate_command
from facereel.cli.export import export_command
from facereel.cli.index import index_command
from facereel.cli.ingest import ingest_command
from facereel.cli.inspect import inspect_command
from facereel.cli.people import people
from facereel.cli.people_decisions import (
    confirm_command,
    differ_command,
    reject_command,
    show_command,
    split_command,
    suggest_command,
    undo_command,
)
from facereel.cli.people_timeline import timeline_command
from facereel.cli.prepare import prepare_command
from facereel.cli.reproduce import reproduce_command
from facereel.cli.search import search_command
from facereel.cli.serve import serve_command
from facereel.cli.train import train_command
from facereel.errors import Terminated, UntrustedModuleError, UserError
from facereel.system.text import printable

# Exit codes that shells use for a program that Ctrl-C or SIGTERM ended.
_INTERRUPTED = 130
_TERMINATED = 143
_CONTINUE = "continue train with resume=RUN_DIR, other commands by running them again"

_SEARCH, _TRAIN, _DATA, _TOOLS = "Search your videos", "Train and evaluate", "Data", "Tools"
# Hydra's own options (-m, --cfg job, ...) and overrides pass through.
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}


class _Commands(TyperGroup):
    """Command group that lists `people` after `search`; Typer would list groups first."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = [name for name in super().list_commands(ctx) if name != "people"]
        names.insert(names.index("search") + 1, "people")
        return names


app = typer.Typer(
    name="facereel",
    cls=_Commands,
    help="Face videos and face images as short binary codes in one Hamming space.\n\n"
    "The commands train, evaluate and reproduce take key=value, and demo passes key=value to train. "
    "All other commands take options.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("index", rich_help_panel=_SEARCH)(index_command)
app.command("search", rich_help_panel=_SEARCH)(search_command)
people.command("show")(show_command)
people.command("confirm")(confirm_command)
people.command("reject")(reject_command)
people.command("split")(split_command)
people.command("differ")(differ_command)
people.command("suggest")(suggest_command)
people.command("undo")(undo_command)
people.command("timeline")(timeline_command)
app.add_typer(people, name="people", rich_help_panel=_SEARCH)
app.command("erase", rich_help_panel=_SEARCH)(erase_command)
app.command("convert", rich_help_panel=_SEARCH)(convert_command)
app.command("serve", rich_help_panel=_SEARCH)(serve_command)
app.command("ingest", rich_help_panel=_SEARCH)(ingest_command)
app.command("demo", context_settings=_OVERRIDES, rich_help_panel=_TRAIN)(demo_command)
app.command("train", context_settings=_OVERRIDES, rich_help_panel=_TRAIN)(train_command)
app.command("evaluate", context_settings=_OVERRIDES, rich_help_panel=_TRAIN)(evaluate_command)
app.command("reproduce", context_settings=_OVERRIDES, rich_help_panel=_TRAIN)(reproduce_command)
app.command("export", rich_help_panel=_TRAIN)(export_command)
app.command("prepare", rich_help_panel=_DATA)(prepare_command)
app.command("inspect", rich_help_panel=_DATA)(inspect_command)
app.command("doctor", rich_help_panel=_TOOLS)(doctor_command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    # Without this Hydra prints its own long messages.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run a command; report a user's mistake in one line on stderr, with exit code 2.

    Args:
        arguments: of the command line; None takes those of the process.
    """
    try:
        with _terminable():
            code = app(arguments if arguments is not None else sys.argv[1:], standalone_mode=False)
        if code == _INTERRUPTED:  # how Typer reports Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        _fail(f"{error}{_trust_advice(error)}")
    except OSError as error:
        _fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":
            raise
        name = error.object.encode(errors="backslashreplace").decode()
        _fail(f"{name}: the name is not UTF-8: rename the file or folder")
    except KeyboardInterrupt:
        _stop("interrupted", _CONTINUE, _INTERRUPTED)
    except Terminated as stop:
        _stop("ended by SIGTERM", str(stop) or _CONTINUE, _TERMINATED)
    except Exception as error:
        # Typer's usage errors, recognized by their method, since Typer may bring its own copy of Click.
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message().rstrip('.') or 'a command is required'}; see facereel --help")


def _trust_advice(error: BaseException | None) -> str:
    """Return advice to use --trust if the error or one of its causes is about an untrusted module, else ""."""
    while error is not None:
        if isinstance(error, UntrustedModuleError):
            return f": add --trust {error.module}"
        error = error.__cause__
    return ""


def _stop(what: str, then: str, code: int) -> NoReturn:
    print(f"facereel: {what}; {then}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C: unfinished files are removed and child processes are stopped."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if _imports(frame):  # an exception would abort C++ code such as PyTorch's: try again later
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM and a parent may both send it: finish cleaning up
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is being imported."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _fail(message: str) -> NoReturn:
    print(f"facereel: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)
