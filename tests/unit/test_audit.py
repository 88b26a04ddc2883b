"""What ``make audit`` makes of pip-audit's report: clean is said only of what was looked up."""

from __future__ import annotations

import pytest

from tests.audit import CLEAN, UNKNOWN, VULNERABLE, verdict

GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([GOOD], CLEAN, "1 packages, no known vulnerability"),
        ([GOOD, BAD], VULNERABLE, "b 2: CVE-1, mended in 2.1"),
        ([GOOD, SKIPPED], UNKNOWN, "Nothing is known of 1 of 2 packages"),
        ([SKIPPED, BAD], VULNERABLE, "CVE-1"),
        ([], UNKNOWN, "no package is pinned"),
        (None, UNKNOWN, "cannot be reached from here (no route)"),
    ],
)
def test_the_verdict(packages, code, words):
    got, said = verdict(None if packages is None else {"dependencies": packages}, "no route")
    assert got == code
    assert words in said
