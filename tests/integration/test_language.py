"""Plain English: phrases that must not come back, in the pages, the help texts and the comments of configurations.

Each is a word that readers stumbled over, with what to write in its place.
"""

import re
from pathlib import Path

import pytest
import typer
from repository import REPOSITORY

from facereel.cli.main import app

PHRASES = {
    r"\banew\b": "again",
    r"\blikewise\b": "also",
    r"\bbesides?\b": "next to, with, or apart from",
    r"\bmeanwhile\b": "in the meantime",
    r"\bthus\b": "so",
    r"\bwhoever\b": "anyone who",
    r"\b(goes|go|gone|going) on\b": "continues, resumed",
    r"\bcannot be gone\b": "cannot resume",
    r"\b(lies|lie|lying) in\b": "is in",
    r"\bstands? (on|in)\b": "is on, runs on",
    r"\bis none\b|\bare none\b": "is invalid, is not a",
    r"\b(is|are|was|were) told\b": "logged, reported, raises an error",
    r"\bsays so\b|\bsaid so\b": "reports it",
    r"\bof (ours|one's own|a stranger|a stranger's)\b": "our choice, your own, untrusted",
    r"\bsomebody else's\b|\bsomebody else\b": "untrusted, another person",
    r"\bgets? no gradient\b": "frozen parameters",
    r"\b(kept|keep|keeps) from\b": "excluded",
    r"\blet go\b": "dropped",
    r"\bso many\b|\bso-many\b": "N, at most N",
    r"\bbehind (the|a|an|each|every) (step|epoch|stage|run)\b|\bbehind epoch\b": "after",
    r"\bpictures?\b": "image",
    r"\b(grey|colour|colours|licence|licences|centre|centres|behaviour|favour)\b": "American spelling",
    r"\bfigures (of|for|are|is|from)\b": "numbers, results",
    r"\basked for\b": "requested",
    r"\ba run of days\b": "days",
    r"\bphotograph(s)?\b": "photo",
}
PAGES = sorted(path for path in (REPOSITORY / "docs").rglob("*.md"))


def found(text, phrases=PHRASES):
    """The phrases in a text, apart from code and the titles of works."""
    plain = re.sub(r"```.*?```|`[^`]*`|\"[^\"\n]*\"|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return {match[0]: use for phrase, use in phrases.items() for match in re.finditer(phrase, plain, re.IGNORECASE)}


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *PAGES], ids=lambda page: Path(page).name
)
def test_pages_are_in_plain_english(page):
    assert found(page.read_text(encoding="utf-8")) == {}


def helps(command, path):
    yield path, command.help or ""
    for parameter in command.params:
        yield f"{path} {parameter.name}", getattr(parameter, "help", None) or ""
    for name, part in getattr(command, "commands", {}).items():
        yield from helps(part, f"{path} {name}")


@pytest.mark.parametrize(("place", "text"), [*helps(typer.main.get_command(app), "facereel")])
def test_help_is_in_plain_english(place, text):
    assert found(text) == {}
    assert not re.match(r"(Of|To|In|Whose)\b", text)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_comments_of_configurations_are_in_plain_english(path):
    comments = " ".join(
        line.strip(" #") for line in path.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("#")
    )
    assert found(comments) == {}


def test_a_phrase_is_found():
    assert found("It is written anew, `anew`.") == {"anew": "again"}
