"""Check the installed packages for known vulnerabilities with PyPI's advisory service: make audit.

Exits with 0 if none is found, with 1 if one is found, and with 3 if the service is unavailable.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

ASK = (sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--skip-editable", "--timeout=10")

NOTHING, FOUND, NOT_ASKED = 0, 1, 3


def audit(command: Sequence[str] = ASK) -> int:
    """Run pip-audit and print its results, one per line.

    Args:
        command: the command that runs pip-audit.

    Returns:
        The exit code.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
        weak = {package["name"]: package for package in packages if package.get("vulns")}
        skipped = [package["name"] for package in packages if "skip_reason" in package]
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        print(f"audit: not done, the service is unavailable: {lines[-1] if lines else 'no output from pip-audit'}")
        return NOT_ASKED
    if len(skipped) == len(packages):  # the answer is not a list of advisories
        print(f"audit: not done, the service has none of the {len(packages)} packages")
        return NOT_ASKED
    for name, package in weak.items():
        for weakness in package["vulns"]:
            versions = ", ".join(weakness["fix_versions"])
            state = f"fixed in {versions}" if versions else "not fixed yet"
            print(f"audit: {name} {package['version']}: {weakness['id']}, {state}")
    unknown = f"; unknown to the service: {', '.join(skipped)}" if skipped else ""
    print(f"audit: {len(packages) - len(skipped)} packages checked, {len(weak)} with known vulnerabilities{unknown}")
    return FOUND if weak else NOTHING


if __name__ == "__main__":
    sys.exit(audit())
