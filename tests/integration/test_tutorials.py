"""The first tutorial, word for word: its commands run, and print what the page shows but for numbers and folders."""

import re
import shlex
import subprocess
import sys

import pytest
from commands import run
from repository import REPOSITORY

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "tutorials" / "find_a_person.md"


def steps(page):
    """Each block of commands with the block of output after it, or None; and the blocks of Python."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for (kind, text), (after, output) in zip(blocks, [*blocks[1:], ("end", "")], strict=True):
        if kind:
            yield kind, text.strip(), None if after else output


def comparable(text, folder):
    """Lines without numbers, in any order: another processor may swap results at similar distances."""
    text = text.replace(f"{folder}/", "/home/you/")
    return sorted(re.sub(r"\d+(\.\d+)?", "#", " ".join(line.split())) for line in text.splitlines() if line.strip())


def test_find_a_person_prints_what_the_page_shows(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shown = 0
    for kind, text, output in steps(PAGE):
        capfd.readouterr()
        if kind == "python":
            exec(text, {})
        elif text.startswith("python "):
            script = REPOSITORY / shlex.split(text)[1]
            subprocess.run([sys.executable, script], check=True)
        elif not text.startswith("facereel serve"):  # which does not end; tests/web drives it
            assert run(*shlex.split(text)[1:]) == 0, text
        if output is not None:
            assert comparable(capfd.readouterr().out, tmp_path) == comparable(output, "/home/you"), text
            shown += 1
    assert shown >= 9


@pytest.mark.parametrize("layout", ["own", "folder"])
def test_the_faces_of_the_other_tutorials_are_drawn(tmp_path, layout):
    script = REPOSITORY / "scripts" / "tools" / "drawn_layout.py"
    subprocess.run([sys.executable, script, "--layout", layout, "--out", "faces"], check=True, cwd=tmp_path)
    assert len([path for path in (tmp_path / "faces").rglob("*") if path.is_file()]) > 10
