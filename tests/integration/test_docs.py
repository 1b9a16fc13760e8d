"""The documentation names all that there is. `make docs` checks its links and builds it."""

import re

import pytest
import yaml
from repository import REPOSITORY

import facereel.functional
import facereel.models

DOCS = REPOSITORY / "docs"
CONFIGS = REPOSITORY / "configs"


def pages_in(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            (value,) = entry.values()
            yield from [value] if isinstance(value, str) else pages_in(value)


def test_the_navigation_lists_every_page_once():
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages_in(nav)) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_table_of_groups_is_correct():
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    said = {
        group: {option: bold for bold, option in re.findall(r"(\*\*)?`(\w+)`", options)}
        for group, options in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE)
        if (CONFIGS / group).is_dir()
    }
    there = {
        folder.name: {path.stem for path in folder.glob("[a-z]*.yaml")}
        for folder in CONFIGS.iterdir()
        if folder.is_dir()
    }
    assert {group: set(options) for group, options in said.items()} == there
    chosen = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    defaults = {group: option for entry in chosen if isinstance(entry, dict) for group, option in entry.items()}
    for group, options in said.items():
        assert [option for option, bold in options.items() if bold] == [defaults.get(group)] * bool(
            defaults.get(group)
        ), group


@pytest.mark.parametrize("package", [facereel.functional, facereel.models])
def test_api_pages_list_all_public_names(package):
    text = (DOCS / "reference" / "api" / f"{package.__name__.rpartition('.')[2]}.md").read_text(encoding="utf-8")
    named = {line.rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")}
    assert named == {name for name in package.__all__ if not name.isupper()}


def test_examples_have_the_heading_of_the_api_pages():
    for path in (REPOSITORY / "src").rglob("*.py"):
        assert not re.search(r"^ +Example:$", path.read_text(encoding="utf-8"), flags=re.MULTILINE), path


def test_threat_model_names_existing_tests():
    """By file and function; a threat without one says none."""
    rows = re.findall(
        r"^\|(?! threat|---).*\|(.*)\|$", (DOCS / "explanation" / "threat_model.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert len(rows) > 30
    for cell in rows:
        named = re.findall(r"`(tests(?:_web)?/[\w/]+\.py)::(test_\w+)`", cell)
        assert named or cell.strip() == "none", cell
        for file, test in named:
            assert f"\ndef {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), f"{file}::{test}"
