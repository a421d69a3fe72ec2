"""Which hosts are meant, and what is made of the facts of one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from gs.finding import BAD, GOOD, NOTE, WARNING, Finding
from provisioning import frontend
from provisioning.errors import UsageError
from provisioning.hosts import inventory, preflight

GROUPS = """\
[groups]
web = ["web1", "admin@10.0.0.2:2222"]
all = ["web1", "db"]
"""


def names(file: Path, *given: str) -> list[str]:
    return [host.name for host in inventory.chosen(given, file)]


def test_names_and_groups(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(GROUPS)
    assert names(file, "other", "web", "web1") == ["other", "web1", "admin@10.0.0.2:2222"]
    assert names(file) == ["web1", "admin@10.0.0.2:2222", "db"]
    assert names(tmp_path / "none", "web") == ["web"]


def test_the_name_of_a_log() -> None:
    assert inventory.Host("admin@[fe80::1]:22/..").label == "admin@_fe80__1__22_.."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no host is given"),
        ("[groups", "cannot read"),
        ("[hosts]\n", "unknown 'hosts'"),
        ("groups = 1\n", "groups is no table"),
        ("[groups]\nweb = 'a'\n", "no list of names"),
        ("[groups]\nweb = ['-oProxyCommand=x']\n", "no name of a host"),
        ("[groups]\nweb = ['']\n", "no name of a host"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=says):
        inventory.chosen([], file)


def test_the_command_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["dev", "build-kernel", "--host", "a", "--kernel", "6.1", "--host=b", "--host", "c"]
    monkeypatch.setattr("sys.argv", line)
    assert frontend.command_for(["b", "x y"]) == (
        "./dev build-kernel --kernel 6.1 --host=b '--host=x y'"
    )


#: A machine as it should be.
FACTS = """\
user=admin
root=sudo
os_name=Debian GNU/Linux 12 (bookworm)
machine=x86_64
release=6.1.0-50-amd64
processors=4
memory_kb=4000000
swap_kb=0
clock=1000000
init=systemd
container=
root_free_kb=20000000
boot_free_kb=400000
home_free_kb=20000000
packages=dpkg
loader=grub
grub=/boot/grub
grub_abstraction=
grub_fs=ext2
grubenv=yes
firmware=bios
cgroup=2
"""


BUILT_THERE = (*(*preflight.FOR_KERNEL, *preflight.ONE_SHOT), *preflight.FOR_BUILD)


def judged(
    text: str, checks: Sequence[preflight.Check] = (*preflight.FOR_KERNEL, *preflight.ONE_SHOT)
) -> list[Finding]:
    return preflight.judge(preflight.parse(text, asked=1000000.5), checks)


def test_nothing_is_in_the_way() -> None:
    findings = judged(FACTS, BUILT_THERE)
    assert {finding.level for finding in findings} == {GOOD}
    checks = {finding.check for finding in findings}
    assert checks == {"system", "rights", "loader", "space", "memory", "cgroup"}


@pytest.mark.parametrize(
    ("line", "check", "level", "says"),
    [
        ("root=no", "rights", BAD, "admin cannot become root"),
        ("container=lxc", "system", BAD, "a container (lxc)"),
        ("machine=riscv64", "system", BAD, "no kernel of ours"),
        ("packages=rpm", "system", BAD, "does not install Debian packages"),
        ("init=openrc", "system", BAD, "its init is openrc"),
        ("loader=", "loader", BAD, "there is no GRUB"),
        ("grub_abstraction=lvm", "loader", BAD, "(lvm, ext2): it would try a new kernel again"),
        ("grub_fs=btrfs", "loader", BAD, "(btrfs): it would try"),
        ("grubenv=", "loader", BAD, "there is no /boot/grub/grubenv"),
        ("secure_boot=1", "loader", BAD, "Secure Boot"),
        ("boot_free_kb=90000", "space", BAD, "87 MB are free in /boot, and it takes 150"),
        ("root_free_kb=", "space", BAD, "0 MB are free in /,"),
        ("cgroup=", "cgroup", BAD, "no memory cgroups"),
        ("killer=earlyoom", "killers", WARNING, "earlyoom is active"),
        ("clock=900000", "clock", WARNING, "off by -100000 s"),
        ("gs_attachment=builtin", "kernel", NOTE, "in this kernel already (builtin)"),
    ],
)
def test_what_is_in_the_way(line: str, check: str, level: str, says: str) -> None:
    key = line.partition("=")[0]
    kept = [old for old in FACTS.splitlines() if old.partition("=")[0] != key]
    found = [f for f in judged("\n".join([*kept, line])) if f.level not in (GOOD,)]
    assert [(f.check, f.level) for f in found] == [(check, level)]
    assert says in found[0].text
    assert found[0].mend or level == NOTE


@pytest.mark.parametrize("line", ["home_free_kb=9000000", "memory_kb=1000000", "python=3.8"])
def test_what_is_in_the_way_of_a_build_there(line: str) -> None:
    key = line.partition("=")[0]
    text = "\n".join([*(f for f in FACTS.splitlines() if not f.startswith(key)), line])
    assert {f.level for f in judged(text)} == {GOOD}
    assert [f.level for f in judged(text, BUILT_THERE) if f.level != GOOD] == [BAD]


@pytest.mark.parametrize(
    ("line", "level", "says"),
    [
        ("headers=yes", GOOD, "the headers of 6.1.0-50-amd64 are there"),
        ("headers=", BAD, "the headers of 6.1.0-50-amd64 are missing"),
        ("gs_attachment=builtin", BAD, "gs is built into this kernel"),
        ("secure_boot=1", WARNING, "Secure Boot"),
    ],
)
def test_what_a_module_needs(line: str, level: str, says: str) -> None:
    found = [f for f in judged(f"{FACTS}{line}\n", preflight.FOR_MODULE) if f.check == "module"]
    assert found[0].level == level and says in found[0].text


@pytest.mark.parametrize("said", ["", "Welcome", "this machine has a=b of everything"])
def test_what_a_shell_says_is_no_fact(said: str) -> None:
    facts = preflight.parse(f"{said}\n{FACTS}", asked=0)
    assert facts.values["greeting"] == (said,)
    assert dict(facts.values) == {**preflight.parse(FACTS, asked=0).values, "greeting": (said,)}


def test_headers_for_an_older_library() -> None:
    for libc, expected in (("2.1", [WARNING]), ("99.0", []), ("", [])):
        text = f"{FACTS}dkms=yes\nlibc={libc}\n"
        assert [f.level for f in judged(text, preflight.BUILT_HERE)] == expected


def test_the_script_finds_what_is_looked_at() -> None:
    """Every fact that judge() asks for has a line of its own in the script, this machine's too."""
    script = Path(preflight.__file__).parent / "facts.sh"
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
    assert not done.stderr
    told = preflight.parse(done.stdout, asked=0).values
    assert {"user", "root", "machine", "release", "memory_kb", "root_free_kb"} <= set(told)
    said = script.read_text()
    for line in FACTS.splitlines()[1:]:
        assert f"say {line.partition('=')[0]} " in said, line
