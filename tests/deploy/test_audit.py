"""What pip-audit says, and what is made of it."""

import json

from deploy.audit.__main__ import ask, main, read_findings


def words(*packages):
    return json.dumps({"dependencies": packages, "fixes": []}).encode()


SOUND = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found"}
HOLED = {
    "name": "c",
    "version": "2",
    "vulns": [{"id": "X-1", "fix_versions": ["3"], "aliases": []}],
}


def test_a_skipped_package_is_not_an_audited_one():
    findings = read_findings(words(SOUND, SKIPPED))
    assert (findings.num_audited, findings.skipped, findings.holes) == (1, ["b"], [])


def test_a_hole_is_named_with_what_mends_it():
    assert read_findings(words(HOLED)).holes == ["c 2: X-1, mended in 3"]


def test_a_service_that_does_not_answer_in_time_is_not_waited_for():
    assert ask(["requirements.txt"], 0.01) is None


def test_an_audit_that_cannot_be_done_is_no_success_unless_it_may_be_skipped(monkeypatch, capsys):
    monkeypatch.setattr("deploy.audit.__main__.ask", lambda *_: words(SKIPPED))
    assert main([]) == 2
    assert main(["--if-possible"]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_hole_is_a_failure_in_any_case(monkeypatch):
    monkeypatch.setattr("deploy.audit.__main__.ask", lambda *_: words(SOUND, HOLED))
    assert main([]) == main(["--if-possible"]) == 1
