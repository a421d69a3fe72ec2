"""How the host tells what the guest's pytest said: failures, skips, dead machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.vm.session import GuestResult, Outcome
from tests.test_guest import cases, report

XML = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase name="test_good"><properties><property name="seed" value="7" /></properties></testcase>
<testcase name="test_bad"><failure message="m">assert 1 == 2</failure></testcase>
<testcase name="test_left"><error message="m">a process was left</error></testcase>
<testcase name="test_skipped"><skipped message="no disk for swap" /></testcase>
</testsuite></testsuites>"""
GOOD = XML.replace("<failure", "<system-out").replace("</failure", "</system-out")
GOOD = GOOD.replace("<error", "<system-err").replace("</error", "</system-err")
ALL_SKIPPED = """<testsuites><testsuite><testcase name="a"><skipped message="x" /></testcase>
</testsuite></testsuites>"""


def result(folder: Path, status: int | None, xml: str | None, outcome: Outcome) -> GuestResult:
    console = folder / "console.log"
    console.write_text("the last words of the console\n")
    if xml is not None:
        (folder / "junit.xml").write_text(xml)
    return GuestResult(outcome, status, "the last output", console, folder, 3.0)


def failure_of(told: GuestResult) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        report(told)
    return str(caught.value)


def test_cases() -> None:
    good, bad, left, skipped = cases(XML)
    assert (good.problem, good.skipped, good.told) == ("", "", "seed: 7")
    assert bad.problem == "assert 1 == 2"
    assert left.problem == "a process was left"
    assert skipped.skipped == "no disk for swap"


def test_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(result(tmp_path, 0, GOOD, Outcome.OK))
    out = capsys.readouterr().out
    assert "3 passed, 0 failed, 1 skipped" in out
    assert "skipped: test_skipped: no disk for swap" in out
    assert "seed: 7" in out


def test_failures_are_named(tmp_path: Path) -> None:
    text = failure_of(result(tmp_path, 1, XML, Outcome.FAILED))
    assert "2 of 4 guest tests failed" in text
    for word in ("test_bad", "assert 1 == 2", "test_left", "a process was left"):
        assert word in text
    assert "test_good" not in text


def test_a_bad_status_alone_is_a_failure(tmp_path: Path) -> None:
    assert "0 of 4" in failure_of(result(tmp_path, 1, GOOD, Outcome.FAILED))


def test_nothing_ran(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no test ran"):
        report(result(tmp_path, 0, ALL_SKIPPED, Outcome.OK))


def test_pytest_itself_failed(tmp_path: Path) -> None:
    assert "the last output" in failure_of(result(tmp_path, 4, None, Outcome.FAILED))


@pytest.mark.parametrize("outcome", [Outcome.PANIC, Outcome.LOST, Outcome.TIMEOUT])
def test_a_dead_machine_shows_its_console(tmp_path: Path, outcome: Outcome) -> None:
    text = failure_of(result(tmp_path, None, None, outcome))
    assert outcome.value in text
    assert "the last words of the console" in text and "the last output" in text
