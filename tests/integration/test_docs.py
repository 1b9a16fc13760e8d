"""The documentation names all that there is. `make docs` checks its links and builds it."""

import importlib
import re

import pytest
import yaml
from docs_pages import generated_pages
from repository import REPOSITORY
from typer.testing import CliRunner

import facereel.functional
import facereel.models
from facereel.cli.main import app

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
    """Written pages by their file, generated ones by their folder."""
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    folders = {f"{page.rpartition('/')[0]}/" for page in generated_pages()}
    assert sorted(pages_in(nav)) == sorted([*written, *folders])
    assert not set(written) & set(generated_pages())


def test_the_hook_puts_generated_pages_in_the_navigation():
    hook = importlib.import_module("docs_reference")

    class Config:
        nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    listed = list(pages_in(hook.on_config(Config()).nav))
    assert len(listed) == len(set(listed))
    assert set(generated_pages()) <= set(listed)


def test_the_command_pages_have_every_command_and_option():
    """As `facereel COMMAND --help` lists them."""
    names = re.findall(r"\[`facereel ([a-z]+)`\]", generated_pages()["reference/commands/index.md"])
    assert len(names) == len(app.registered_commands) + len(app.registered_groups)
    for name in names:
        page = generated_pages()[f"reference/commands/facereel_{name}.md"]
        for command in re.findall(r"^#+ facereel (.+)$", page, flags=re.MULTILINE):
            text = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"}).output
            options = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"}
            section = page.partition(f"# facereel {command}\n")[2]
            assert options <= set(re.findall(r"--[a-z][a-z-]+", section)), command


def test_the_key_pages_have_every_key_with_type_and_meaning():
    tables = {page: text for page, text in generated_pages().items() if page.startswith("reference/keys/")}
    groups = [path.name for path in CONFIGS.iterdir() if path.is_dir()]
    names = {page.rpartition("/")[2].removesuffix(".md") for page in tables}
    assert names == {"train", "evaluate", "reproduce", *groups}
    n_keys = 0
    for page, text in tables.items():
        for line in re.findall(r"^\| `.*$", text, flags=re.MULTILINE):
            key, kind, default, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            assert all((kind, default, meaning)), f"{page}: {key}"
            n_keys += 1
    assert n_keys > 200
    for key in ("`stages.stage1.lr`", "`seed`", "`preprocess.flip_tta`"):
        assert key in tables["reference/keys/train.md"]


def test_the_troubleshooting_page_has_messages_that_there_are():
    """Each piece of a message in its first column is in the code."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    text = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8").partition("## Other problems")[0]
    rows = re.findall(r"^\| (?!message|--)([^|]+) \|", text, flags=re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        pieces = re.findall(r"`([^`]+)`", row)
        assert pieces, row
        for piece in pieces:
            words = re.sub(r"--face 3: ", "--face ", piece).strip()
            assert words in code, f"{row}: {words}"


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
        r"^\|(?! threat|---).*\|(.*)\|$",
        (DOCS / "explanation" / "threat_model.md").read_text("utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) > 30
    for cell in rows:
        named = re.findall(r"`(tests(?:_web)?/[\w/]+\.py)::(test_\w+)`", cell)
        assert named or cell.strip() == "none", cell
        for file, test in named:
            assert f"\ndef {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), f"{file}::{test}"
