"""The tutorials, word for word: their commands run, and print what the pages show but for numbers and folders."""

import os
import re
import runpy
import shlex
import sys
from typing import Any

import pytest
from commands import run
from repository import REPOSITORY

from facereel.storage.trust import trust_modules

pytestmark = pytest.mark.slow

PAGES = REPOSITORY / "docs" / "tutorials"


def steps(page):
    """Each block of commands or code of a page, with the output shown below it, or None."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found: list[list[Any]] = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if kind:
            found.append([kind, block.strip(), None])
        else:
            found[-1][2] = (found[-1][2] or "") + block
    return found


def lines(text, folder):
    """Lines without numbers and this folder's path, and without the progress that only a slow machine prints."""
    text = re.sub(r"^.* minutes left\n", "", text.replace(f"{folder}/", "/home/you/"), flags=re.MULTILINE)
    return [re.sub(r"\d+(\.\d+)?", "#", " ".join(line.split())) for line in text.splitlines() if line.strip()]


def shows(page_output, output, folder):
    """Whether a page shows these lines in this order; its lines "..." stand for any lines."""
    pattern = "".join(
        r"(.*\n)*" if line == "..." else re.escape(line) + "\n" for line in lines(page_output, "/home/you")
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines(output, folder))) is not None


def run_commands(text, more=()):
    """Run a block's commands, in this process for speed; `more` follows train and demo."""
    for line in text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line)
        if program == "python":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(str(REPOSITORY / arguments[0]), run_name="__main__")
        elif program == "facereel":
            added = more if arguments[0] in ("train", "demo") else ()
            assert run(*arguments, *added) == 0, line
        else:
            assert line == "export PYTHONPATH=."  # which the fixture has done


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, from which Python imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for module in ("my_package", "my_faces"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield tmp_path
    trust_modules(None)


def test_find_a_person_prints_what_the_page_shows(folder, capfd):
    shown = 0
    for kind, text, output in steps("find_a_person.md"):
        capfd.readouterr()
        if kind == "python":
            exec(text, {})
        elif not text.startswith("facereel serve"):  # which does not end; tests/web drives it
            run_commands(text)
        if output is not None:
            # In any order: another processor may swap results at similar distances.
            assert sorted(lines(capfd.readouterr().out, folder)) == sorted(lines(output, "/home/you")), text
            shown += 1
    assert shown >= 9


def test_train_a_model_prints_what_the_page_shows(folder, capfd):
    """As written but for two steps a stage (`debug=tiny`) in the training, which takes minutes without it.

    The data, the split, the tables' rows and columns, and all files are those of the page; the numbers are masked.
    """
    shown = 0
    names: dict[str, Any] = {}
    for kind, text, output in steps("train_a_model.md"):
        capfd.readouterr()
        if kind == "python":
            exec(text, names)
        else:
            run_commands(text, more=["debug=tiny"])
        if output is not None:
            printed = capfd.readouterr().out
            assert shows(output, printed, folder), printed
            shown += 1
    assert shown == 2
    assert names["codes"].shape == (2, 48)
    assert str(names["codes"].dtype) == "torch.bool"
    assert (folder / "demo" / "report.html").is_file()


@pytest.mark.parametrize(("page", "n_shown"), [("custom_data.md", 4), ("custom_encoder_and_loss.md", 2)])
def test_your_own_classes_print_what_the_pages_show(folder, capfd, page, n_shown):
    """As written, with the pages' own `debug=tiny`; the yaml is checked by test_custom_data."""
    shown = 0
    for kind, text, output in steps(page):
        capfd.readouterr()
        named = re.match(r"# (\w+\.py)\n", text)
        if kind == "python" and named:
            (folder / named[1]).write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(text, {})
        elif kind == "sh":
            run_commands(text)
        if output is None:
            continue
        if output.startswith("facereel: "):  # printed where the module is not trusted
            trust_modules(None)
            assert run("evaluate", "checkpoint=runs/mine") == 2
            printed = capfd.readouterr().err
        else:
            printed = capfd.readouterr().out
        assert shows(output, printed, folder), printed
        shown += 1
    assert shown == n_shown
