"""What a host is, and whether gs can be installed there so that the way back stays open.

Looks only; `facts.sh` gathers, `judge` says what it means.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gs.finding import BAD, GOOD, NOTE, WARNING, Finding
from provisioning import config
from provisioning.arch import ARM64, X86_64
from provisioning.errors import HostFailed
from provisioning.hosts.remote import SUDO, SUDO_ASKS, Remote

_TOLD = "give it: ./dev --prompt-for-sudo-password TASK, or in INVOKE_SUDO_PASSWORD"

_SCRIPT = Path(__file__).parent / "facts.sh"

#: MB that must be free: in /boot for a kernel and its initrd beside what is there, in / for its
#: modules, in the home of who connects for the sources and the objects of a build.
BOOT_MB = 150
ROOT_MB = 1000
BUILD_MB = 12_000

#: MB for a build where there has been one, or is one: what it took is not free any more.
AGAIN_MB = 3_000

#: MB of memory below which a build of a kernel is killed.
BUILD_MEMORY_MB = 1500

#: Oldest Python that provisioning itself runs on.
BUILD_PYTHON = (3, 10)

#: Seconds by which a clock may be off: certificates and signatures have times.
CLOCK_OFF = 120

#: Where GRUB's environment block is never written, though it is read.
_READ_ONLY_FS = ("btrfs", "zfs")


@dataclass(frozen=True)
class Facts:
    """What facts.sh said; ``asked`` is our clock then, in seconds since 1970."""

    values: Mapping[str, tuple[str, ...]]
    asked: float

    def one(self, key: str) -> str:
        """The value, or nothing."""
        return next(iter(self.values.get(key, ())), "")

    def number(self, key: str) -> int:
        """The same as a number; 0 if it is not known."""
        text = self.one(key)
        return int(text) if text.isdigit() else 0

    @property
    def attachment(self) -> str:
        """How the core is in the running kernel: builtin, module, or not at all."""
        return self.one("gs_attachment")

    @property
    def as_root(self) -> tuple[str, ...]:
        """What to put before a command that only root may give."""
        return {"sudo": SUDO, "password": SUDO_ASKS}.get(self.one("root"), ())


#: One thing to look at: what it means for an installation.
Check = Callable[[Facts], Iterator[Finding]]


def gather(remote: Remote) -> Facts:
    """Ask the host; errors as of Remote.run(). HostFailed where its shell says something of its
    own, too, which would be taken for the answer of whatever is run there."""
    asked = time.time()
    words = ["sh", "-c", _SCRIPT.read_text(), _SCRIPT.name]
    if told := config.sudo_password():
        words.append("password")
    done = remote.run(words, shown=_SCRIPT.name, stdin=told and f"{told}\n")
    facts = parse(done.stdout, asked)
    if said := facts.values.get("greeting"):
        text = next(filter(None, said), "")
        what = f"{remote.host.name}: its shell says something with every command"
        hint = "have ~/.bashrc there say nothing where $PS1 is not set"
        raise HostFailed(what, repr(text), hint, log=remote.log)
    return facts


def parse(text: str, asked: float) -> Facts:
    """The lines key=value; others are a shell's greetings, the values of ``greeting``."""
    values: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not (equals and key.replace("_", "").isalnum()):
            key, value = "greeting", line
        values[key] = (*values.get(key, ()), value.strip())
    return Facts(values, asked)


def judge(facts: Facts, checks: Sequence[Check]) -> list[Finding]:
    """What is in the way (bad), what should be known, and what is well."""
    return [finding for check in checks for finding in check(facts)]


def expect(remote: Remote, checks: Sequence[Check]) -> Facts:
    """What the host is, if nothing is in the way; else HostFailed."""
    facts = gather(remote)
    bad = [finding for finding in judge(facts, checks) if finding.level == BAD]
    if bad:
        raise HostFailed(
            f"{remote.host.name} is not ready",
            ", ".join(finding.text for finding in bad),
            "; ".join(finding.mend for finding in bad),
        )
    return facts


def _system(facts: Facts) -> Iterator[Finding]:
    name = f"{facts.one('os_name')}, {facts.one('machine')}, Linux {facts.one('release')}"
    yield Finding("system", GOOD, name)
    if facts.one("container"):
        text = f"a container ({facts.one('container')}): its kernel is its host's"
        yield Finding("system", BAD, text, "give the host of the container")
    if facts.one("machine") not in (X86_64.name, ARM64.name):
        yield Finding("system", BAD, "no kernel of ours is built for such processors",
                      f"there are {X86_64.name} and {ARM64.name}")  # fmt: skip
    if facts.attachment:
        yield Finding("kernel", NOTE, f"gs is in this kernel already ({facts.attachment})")


def _installs(facts: Facts) -> Iterator[Finding]:
    if facts.one("packages") != "dpkg":
        yield Finding("system", BAD, "it does not install Debian packages",
                      "take a kernel there by hand: --tarball DIRECTORY")  # fmt: skip
    if facts.one("init") != "systemd":
        yield Finding("system", BAD, f"its init is {facts.one('init') or 'unknown'}",
                      "what we install there needs systemd")  # fmt: skip


def _rights(facts: Facts) -> Iterator[Finding]:
    user, root = facts.one("user"), facts.one("root")
    how = {"yes": "is root", "sudo": "becomes root by sudo", "password": "by sudo's password"}
    if root in how:
        yield Finding("rights", GOOD, f"{user} {how[root]}")
    elif root == "wrong":
        yield Finding("rights", BAD, f"sudo does not take the password that was given for {user}",
                      "give the right one")  # fmt: skip
    else:
        text = f"{user} cannot become root without a password"
        yield Finding("rights", BAD, text, f"connect as root, let sudo ask for none, or {_TOLD}")


def _loader(facts: Facts) -> Iterator[Finding]:
    if facts.one("secure_boot") == "1":
        yield Finding("loader", BAD, "Secure Boot takes kernels only that its owner signed",
                      "use the module (--module), or switch it off")  # fmt: skip
    if facts.one("loader") != "grub":
        yield Finding("loader", BAD, "there is no GRUB whose default could be kept",
                      "install grub-pc or grub-efi")  # fmt: skip
        return
    where, at = facts.one("grub_fs"), facts.one("grub")
    if not where:
        yield Finding("loader", BAD, f"it is not to be found out where {at} lies",
                      "see what grub-probe says there, as root")  # fmt: skip
    elif not facts.one("grubenv"):
        yield Finding("loader", BAD, f"there is no {at}/grubenv",
                      f"make one: grub-editenv {at}/grubenv create")  # fmt: skip


def _one_shot(facts: Facts) -> Iterator[Finding]:
    if not facts.one("grub_fs"):
        return  # said already
    if unwritable := _unwritable(facts):
        yield Finding("loader", BAD, f"{unwritable}: it would try a new kernel again and again",
                      "have /boot on a partition with ext4, or take --no-one-shot")  # fmt: skip
    else:
        yield Finding("loader", GOOD, f"GRUB ({facts.one('firmware')}) can boot a kernel once")


def _no_one_shot(facts: Facts) -> Iterator[Finding]:
    yield Finding("loader", WARNING, "a kernel that does not come up is tried again and again",
                  "be where its boot menu is to be seen")  # fmt: skip


def _unwritable(facts: Facts) -> str:
    """Why GRUB cannot take back what it is told to boot once, or nothing."""
    where, layers = facts.one("grub_fs"), facts.one("grub_abstraction").split()
    if not layers and where not in _READ_ONLY_FS:
        return ""
    return f"GRUB cannot write where {facts.one('grub')} is ({', '.join([*layers, where])})"


def _headers(facts: Facts) -> Iterator[Finding]:
    if facts.one("secure_boot") == "1":
        yield Finding("module", WARNING, "Secure Boot takes modules only that its owner signed",
                      "see what gs-oom module load says there")  # fmt: skip
    release = facts.one("release")
    if facts.attachment == "builtin":
        yield Finding("module", BAD, "gs is built into this kernel", "no module is needed")
    elif facts.one("headers"):
        yield Finding("module", GOOD, f"the headers of {release} are there")
    else:
        yield Finding("module", BAD, f"the headers of {release} are missing",
                      f"apt-get install linux-headers-{release}")  # fmt: skip


def _space(facts: Facts) -> Iterator[Finding]:
    yield _room(facts, "/boot", "boot_free_kb", BOOT_MB)
    yield _room(facts, "/", "root_free_kb", ROOT_MB)


def _room(facts: Facts, where: str, key: str, need_mb: int) -> Finding:
    free = facts.number(key) // 1024
    text = f"{free} MB are free in {where}"
    if free >= need_mb:
        return Finding("space", GOOD, text)
    return Finding("space", BAD, f"{text}, and it takes {need_mb}", f"make room in {where}")


def _memory(facts: Facts) -> Iterator[Finding]:
    memory, swap = facts.number("memory_kb") // 1024, facts.number("swap_kb") // 1024
    text = f"{facts.one('processors')} processors, {memory} MB of memory, {swap} MB of swap"
    yield Finding("memory", GOOD, text)


def _building(facts: Facts) -> Iterator[Finding]:
    if facts.one("packages") != "dpkg":
        yield Finding("building", BAD, "it does not install Debian packages",
                      "build on Debian, Ubuntu or another one that does")  # fmt: skip
    need_mb = AGAIN_MB if facts.one("built_before") else BUILD_MB
    yield _room(facts, "the home", "home_free_kb", need_mb)
    if (python := facts.one("python")) and _version(python) < BUILD_PYTHON:
        yield Finding("building", BAD, f"its Python is {python}, and building takes 3.10",
                      "build on another one: --build-on")  # fmt: skip
    if facts.number("memory_kb") // 1024 < BUILD_MEMORY_MB:
        yield Finding("memory", BAD, f"a build takes {BUILD_MEMORY_MB} MB of memory",
                      "build somewhere else")  # fmt: skip


def _headers_of_ours(facts: Facts) -> Iterator[Finding]:
    ours, there = platform.libc_ver()[1], facts.one("libc")
    if facts.one("dkms") and ours and there and _version(there) < _version(ours):
        text = f"its C library is {there}, and ours {ours}: DKMS cannot build there for our kernel"
        yield Finding("headers", WARNING, text, "build on a machine as old: --build-on")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _cgroups(facts: Facts) -> Iterator[Finding]:
    version = facts.one("cgroup")
    if version:
        yield Finding("cgroup", GOOD, f"memory cgroups of version {version}")
    else:
        yield Finding("cgroup", BAD, "no memory cgroups: an OOM cannot be tried there",
                      "boot with cgroup_enable=memory")  # fmt: skip
    for name in facts.values.get("killer", ()):
        yield Finding("killers", WARNING, f"{name} is active: it kills before the kernel decides",
                      "see what gs-oom doctor says of it")  # fmt: skip


def _clock(facts: Facts) -> Iterator[Finding]:
    off = facts.number("clock") - facts.asked
    if abs(off) > CLOCK_OFF:
        yield Finding("clock", WARNING, f"its clock is off by {off:.0f} s", "set it, with NTP")


_COMMON: tuple[Check, ...] = (_system, _installs, _rights, _memory, _cgroups, _clock)

#: What is looked at before a kernel or the module is installed, and where a kernel is to be built.
FOR_KERNEL = (*_COMMON, _loader, _space)
FOR_MODULE = (*_COMMON, _headers)
FOR_BUILD = (_building,)

#: Where nothing is to be installed: what a kernel is for.
FOR_TARBALL: tuple[Check, ...] = (_system,)

#: Before a kernel is installed that was built here.
BUILT_HERE = (_headers_of_ours,)

#: Besides, before a kernel is tried once, or is the default while it is tried.
ONE_SHOT = (_one_shot,)
NO_ONE_SHOT = (_no_one_shot,)
