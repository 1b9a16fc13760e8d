"""Names that are probably one person's."""

from unicodedata import normalize

import pytest
from commands import run
from drawn_faces import make_folder

from facereel.data import Skipped, load_faces, read_folder
from facereel.data.person_names import look_alike, look_alike_line, spelling_key


@pytest.mark.parametrize(
    "name",
    [
        "Ada_Lovelace",
        "ada lovelace ",
        " Ada  Lovelace",
        "ADA-LOVELACE",
        "Ada.Lovelace",
        "Ada\N{NO-BREAK SPACE}Lovelace",
        "Ada\N{NON-BREAKING HYPHEN}Lovelace",
        "Ada\N{EN DASH}Lovelace",
        "Ada Love\N{SOFT HYPHEN}lace",
        "\N{ZERO WIDTH NO-BREAK SPACE}Ada Lovelace",
        "Ada Lovelace",
        "Ada, Lovelace",
    ],
)
def test_spellings_of_one_name_look_alike(name):
    assert look_alike(["Ada Lovelace", name, "Alan Turing"]) in ([sorted(["Ada Lovelace", name])], [])
    assert spelling_key(name) == spelling_key("Ada Lovelace")


def test_unicode_normal_forms_look_alike():
    names = [normalize(form, "José Åström") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    assert look_alike(names) == [sorted(names)]
    assert spelling_key("O'Brien") == spelling_key("O\N{RIGHT SINGLE QUOTATION MARK}Brien")
    assert spelling_key("Weiß") == spelling_key("WEISS")


def test_different_names_do_not_look_alike():
    assert look_alike(["Ada", "Adam", "Ada B", "AdaB", "p1", "p11", "Zoë", "Zoe", "...", "___", "李", "林"]) == []
    assert look_alike_line(["Ada", "Ada", "Bo"]) is None


def test_line_counts_all_groups_and_names_a_few():
    names = [f"{first} {i}" for i in range(9) for first in ("ada", "Ada")]
    line = look_alike_line(names)
    assert line.startswith('9 groups of names that look alike but count as different people: "Ada 0", "ada 0"; ')
    assert line.count('"') == 12
    assert line.endswith("; ...")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    make_folder(root, n_people=3, n_clips=2, n_frames=2, n_stills=1)
    (root / "clips" / "p0").rename(root / "clips" / "Ada Lovelace")
    (root / "stills" / "p0").rename(root / "stills" / "Ada_Lovelace")
    (root / "clips" / "p1").rename(root / "clips" / "ada lovelace ")
    return root


LINE = '1 group of names that look alike but count as different people: "Ada Lovelace", "Ada_Lovelace", "ada lovelace "'


def test_people_with_similar_names_are_reported_not_merged(folder):
    faces = load_faces(read_folder(folder, Skipped()), Skipped(), size=16)
    assert LINE in faces.lines()
    assert len(faces.people) == 5


def test_prepare_and_inspect_report_similar_names(folder, tmp_path, capsys):
    assert run("prepare", "folder", folder, tmp_path / "out", "--detector", "none", "--workers", 1) == 0
    assert f"note: {LINE}\n" in capsys.readouterr().out
    for path in (tmp_path / "out", folder):
        assert run("inspect", path, "--contact-sheet", tmp_path / "sheet.jpg") == 0
        assert f"note: {LINE}\n" in capsys.readouterr().out
