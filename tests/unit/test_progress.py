"""What long work prints where stderr is no terminal: a line a minute, from the innermost step."""

from __future__ import annotations

import time

import pytest

from provisioning import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of 0.2 s."""
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.2)


def test_a_step_without_a_bar_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("unpacking"):
        time.sleep(0.7)
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first == "> unpacking" and last.startswith("  done in 0.7 s")
    assert 2 <= len(between) <= 3
    assert all(line.startswith("  unpacking: ") and line.endswith(" s so far") for line in between)


def test_the_innermost_step_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("outer"):
        with progress.step("inner"):
            time.sleep(0.3)
        time.sleep(0.3)
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("so far")]
    assert [line.split(":")[0].strip() for line in said] == ["inner", "outer"]


def test_a_bar_speaks_for_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("building"), progress.bar("compiling", 100, "files") as bar:
        for _ in range(35):
            bar.update()
            time.sleep(0.02)
    said = capsys.readouterr().err.splitlines()[1:-1]
    assert said and all(line.startswith("  compiling: ") for line in said)


def test_a_short_step_says_nothing_between(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("short"):
        pass
    time.sleep(0.4)
    assert len(capsys.readouterr().err.splitlines()) == 2
