"""The manual page and the completion, by the programs that read them: man's own and bash."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gs import arguments, cli, manual
from provisioning import package


def complete(*words: str) -> list[str]:
    """What bash would offer for the last of ``words``."""
    script = (
        f"{manual.bash_completion()}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gs_oom; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", script, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_each_command_is_offered() -> None:
    assert {*cli.COMMANDS} < {*complete("gs-oom", "")}
    assert complete("gs-oom", "unr") == ["unregister"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("run", "--on-o"), ["--on-oom"]),
        (("run", "--scope", "tr"), ["tree"]),
        (("run", "--backend", "ker"), ["kernel"]),
        (("run", "--signal", "USR"), ["USR1", "USR2"]),
        (("register", "--gr"), ["--grace"]),
        (("watch", "--no"), ["--no-follow"]),
        (("module", "un"), ["unload"]),
        (("completion", ""), ["bash", "-h", "--help"]),
    ],
)
def test_options_and_their_values(words: tuple[str, ...], offered: list[str]) -> None:
    assert sorted(complete("gs-oom", *words)) == sorted(offered)


def test_every_option_of_run() -> None:
    known = {*arguments.VALUED, *arguments.FLAGS, *arguments.HELP}
    assert {*complete("gs-oom", "run", "-")} == known


def test_the_program_and_then_its_files(tmp_path: Path) -> None:
    assert "env" in complete("gs-oom", "run", "--grace", "5s", "en")
    (tmp_path / "file").touch()
    words = ("gs-oom", "run", "--grace", "5s", "cat", f"{tmp_path}/f")
    assert complete(*words) == [f"{tmp_path}/file"]


def test_processes_by_their_numbers() -> None:
    assert "1" in complete("gs-oom", "register", "1")


def test_every_option_is_in_the_page() -> None:
    text = manual.page().replace("\\-", "-")
    for word in [*arguments.VALUED, *arguments.FLAGS]:
        assert re.search(rf"^ +(.*, )?{word}\b", text, re.MULTILINE), word
    for name, parser in manual._commands().items():
        assert f".SS {name}\n" in text
        for action in parser._actions:
            assert all(option in text for option in action.option_strings)


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff here")
def test_the_page_is_good_roff() -> None:
    command = ["groff", "-man", "-ww", "-b", "-z", "-Tutf8"]
    done = subprocess.run(command, input=manual.page(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_are_in_the_package(tmp_path: Path) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg here")
    listing = subprocess.run(
        ["dpkg-deb", "-c", package.tool(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert (
        f"./{package.COMPLETION}\n" in listing and "./usr/share/man/man1/gs-oom.1.gz\n" in listing
    )
