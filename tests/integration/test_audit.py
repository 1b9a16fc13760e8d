"""make audit tells a finding from a service that cannot be asked."""

import json
import sys

import pytest
from audit import audit
from repository import REPOSITORY

CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
WEAK = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.1"], "aliases": []}]}
OPEN = {"name": "torch", "version": "1.0", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
OURS = {"name": "facereel", "skip_reason": "distribution marked as editable"}


def says(out="", err="", code=0):
    """Something that answers as pip-audit does."""
    return [sys.executable, "-c", f"import sys; print({out!r}); print({err!r}, file=sys.stderr); sys.exit({code})"]


def answer(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


def test_no_known_vulnerabilities(capsys):
    assert audit(says(answer(CLEAN, OURS))) == 0
    assert capsys.readouterr().out == (
        "audit: 1 packages checked, 0 with known vulnerabilities; unknown to the service: facereel\n"
    )


def test_each_vulnerability_is_one_line(capsys):
    assert audit(says(answer(CLEAN, WEAK, OPEN), "Found 2 known vulnerabilities", 1)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "audit: pillow 9.0: PYSEC-1, fixed in 9.1",
        "audit: torch 1.0: PYSEC-2, not fixed yet",
        "audit: 3 packages checked, 2 with known vulnerabilities",
    ]


@pytest.mark.parametrize("out", ["", "Traceback", "[]", "null", '{"dependencies": 3}', '{"dependencies": [3]}'])
def test_unreachable_service_is_not_a_finding(out, capsys):
    assert audit(says(out, "ERROR:pip_audit: retrying\nConnectionError: no route to pypi\n", 1)) == 3
    printed = capsys.readouterr().out
    assert printed == "audit: not done, the service is unavailable: ConnectionError: no route to pypi\n"


def test_unknown_package_is_not_reported_as_safe(capsys):
    assert audit(says(answer(OURS, {"name": "numpy", "skip_reason": "not found on PyPI"}))) == 3
    assert capsys.readouterr().out == "audit: not done, the service has none of the 2 packages\n"


def test_make_fails_only_for_a_finding():
    (line,) = [line for line in (REPOSITORY / "Makefile").read_text().splitlines() if "scripts/tools/audit.py" in line]
    assert line.endswith("|| test $$? -eq 3")
