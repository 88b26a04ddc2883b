"""``make audit``: known vulnerabilities of the pinned packages, asked of PyPI's advisories by pip-audit.

Exit codes: 0 nothing is known, 1 something is, 2 it could not be found out, of one package or of all.
Names and versions leave the machine, nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2
SHOWN = 5


def verdict(report: dict[str, Any] | None, problem: str = "") -> tuple[int, str]:
    """Return exit code and words for pip-audit's report; None: there was none, because of ``problem``.

    A package that was skipped counts as unknown: pip-audit itself would call it clean.
    """
    if report is None:
        return UNKNOWN, f"No audit: PyPI's advisories cannot be reached from here ({problem})."
    packages = report["dependencies"]
    found = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in "
        f"{', '.join(fault['fix_versions']) or 'no version yet'}"
        for each in packages
        for fault in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    words = [*found]
    if skipped:
        named = ", ".join(skipped[:SHOWN]) + (", …" if len(skipped) > SHOWN else "")
        words.append(
            f"Nothing is known of {len(skipped)} of {len(packages)} packages: the advisories that are"
            f" reached from here do not have them ({named}). Run it where pypi.org answers."
        )
    if found:
        return VULNERABLE, "\n".join(words)
    if skipped or not packages:
        return UNKNOWN, "\n".join(words) or "No audit: no package is pinned."
    return CLEAN, f"{len(packages)} packages, no known vulnerability."


def main() -> int:
    """Audit what constraints.txt pins."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        report = None
    code, words = verdict(report, done.stderr.strip().rpartition("\n")[2][:300])
    print(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
