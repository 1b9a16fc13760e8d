"""Ask PyPI's advisory service which of the installed packages have known weaknesses: make audit.

Ends with 0 if it knows of none, with 1 if it does, and with 3 if it could not be asked, which is no finding.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

ASK = (sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--skip-editable", "--timeout=10")

NOTHING, FOUND, NOT_ASKED = 0, 1, 3


def audit(command: Sequence[str] = ASK) -> int:
    """Run pip-audit and say in lines what it came to; returns the exit code."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
        weak = {package["name"]: package for package in packages if package.get("vulns")}
        skipped = [package["name"] for package in packages if "skip_reason" in package]
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        print(f"audit: not done, the service could not be asked: {lines[-1] if lines else 'pip-audit said nothing'}")
        return NOT_ASKED
    if len(skipped) == len(packages):  # something answers, but it is no list of advisories
        print(f"audit: not done, the service knows none of the {len(packages)} packages")
        return NOT_ASKED
    for name, package in weak.items():
        for weakness in package["vulns"]:
            fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
            print(f"audit: {name} {package['version']}: {weakness['id']}, mended in {fixed}")
    unknown = f"; not known there: {', '.join(skipped)}" if skipped else ""
    print(f"audit: {len(packages) - len(skipped)} packages asked about, {len(weak)} with known weaknesses{unknown}")
    return FOUND if weak else NOTHING


if __name__ == "__main__":
    sys.exit(audit())
