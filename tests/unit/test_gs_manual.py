"""The man page and the completion: they say what --help says, and man(1) and bash take them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gs import arguments, backends, cli, manual
from tests.unit.gs_support import gs


def complete(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    code = f'COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}; _gs_oom; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "--norc", "-euc", f"{manual.completion()}\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_values() -> None:
    assert complete("gs-oom", "") == set(cli.COMMANDS)
    assert complete("gs-oom", "un") == {"unregister"}
    offered = complete("gs-oom", "run", "--")
    assert offered == {*arguments.VALUED, *arguments.FLAGS, "--help"}
    assert complete("gs-oom", "run", "--backend", "") == set(backends.NAMES)
    assert complete("gs-oom", "run", "--signal", "SIGUS") == {"SIGUSR1", "SIGUSR2"}
    assert complete("gs-oom", "module", "lo") == {"load"}
    assert complete("gs-oom", "ps", "--sort", "") == {"tree", "score"}
    assert {"--extended", "--cgroup"} <= complete("gs-oom", "ps", "--")
    assert complete("gs-oom", "nonsense", "") == set()


def test_the_command_prints_it() -> None:
    done = gs("completion", "bash")
    assert (done.returncode, done.stdout, done.stderr) == (0, manual.completion(), "")
    assert gs("completion", "csh").returncode == 2


def test_every_option_and_promise_is_in_the_man_page() -> None:
    text = manual.page().replace("\\-", "-")
    for word in (*cli.COMMANDS, *arguments.VALUED, *arguments.FLAGS, "--no-follow", "/run/gs"):
        assert word in text, word
    for name in backends.NAMES[1:]:
        assert backends.named(name).promise in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_groff_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    page = tmp_path / "gs-oom.1"
    page.write_text(manual.page())
    words = ["groff", "-man", "-ww", "-Tascii", "-P-c", "-P-b", "-P-u", str(page)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    said = " ".join(done.stdout.split())
    assert "--memory-max SIZE" in said and "run a program of your choice" in said
