"""What a host boots: a kernel on trial once, and for good only when it was seen to be good.

Until then the kernel before is the default of its boot loader, so that every way a trial can end
but by :func:`confirm` leads back to it: a panic, a watchdog, a power cycle, and a unit that reboots
when nobody has confirmed the kernel in time, as nobody can without a network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from provisioning.errors import HostFailed
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote
from provisioning.kernel.versions import Seed

_SCRIPT = Path(__file__).parent / "boot.sh"

#: Seconds in which a kernel on trial must be confirmed.
TRIAL = int(os.environ.get("GS_TRIAL_SECONDS", "300"))

#: Seconds from a reboot to sshd's answer, of servers that test their memory, too.
BOOT_TIMEOUT = 600.0

#: How a kernel is tried: GRUB boots it once, or it is GRUB's default until it is up itself.
ONCE, FIRST = "once", "first"

#: What to do where a host that tries a kernel does not come back.
_HINTS = {
    ONCE: "see its console; after a power cycle the kernel before boots",
    FIRST: "choose the kernel before in its boot menu, then: ./dev rollback --host NAME",
}

_TIMEOUT = 300.0

#: What boot.sh keeps of the kernel from before; under ours, modules would be others.
_CONFIG = "/var/lib/gs-oom/config-before"
_MODULES = "cat /var/lib/gs-oom/modules-before 2>/dev/null || lsmod | sed 1d | cut -d' ' -f1 | sort"


def seed(remote: Remote, facts: Facts) -> Seed:
    """What its kernel was like before ours, from which ours may be grown; HostFailed."""
    script = f"cat {_CONFIG} 2>/dev/null || cat /boot/config-$(uname -r)"
    config = remote.run([*facts.as_root, "sh", "-c", script])
    modules = remote.run(["sh", "-c", _MODULES])
    return Seed(config.stdout, modules.stdout)


def keep(remote: Remote, facts: Facts, modules: Sequence[str] = ()) -> None:
    """Whatever is installed from now on, what runs now stays the default. Those modules are what
    was loaded, should :func:`seed` be asked again."""
    _boot(remote, facts, "keep", *modules)


def try_it(remote: Remote, facts: Facts, release: str, how: str = ONCE) -> None:
    """Reboot into this kernel. HostFailed if another one comes up, which is the one before."""
    _boot(remote, facts, "try", how, release, str(TRIAL))
    remote.say(f"booting {release} on trial")
    runs = _reboot(remote, facts, TRIAL + 2 * BOOT_TIMEOUT, _HINTS[how])
    if runs != release:
        _boot(remote, facts, "forget")
        if how == FIRST:  # somebody may have chosen it in the menu
            keep(remote, facts)
        raise HostFailed(
            f"{remote.host.name}: Linux {release} did not stay up, or had no network",
            f"{runs} runs there again",
            "see its console, and what it kept: /sys/fs/pstore, journalctl --list-boots",
            log=remote.log,
        )


def confirm(remote: Remote, facts: Facts, release: str) -> None:
    """The kernel that runs on trial is good: it is the default from now on."""
    _boot(remote, facts, "confirm", release)


def give_up(remote: Remote, facts: Facts) -> str:
    """End a trial before its time; the release of the kernel from before, which runs then."""
    runs = _reboot(remote, facts, BOOT_TIMEOUT)
    _boot(remote, facts, "forget")
    return runs


def go_back(remote: Remote, facts: Facts) -> str:
    """Have the kernel from before us run, and be the default; what was done, in a few words."""
    if not facts.one("kernel_before"):
        return "nothing to do"
    before = _boot(remote, facts, "back").splitlines()[-1]
    if facts.one("release") == before:
        return f"{before} runs"
    runs = _reboot(remote, facts, BOOT_TIMEOUT)
    if runs != before:
        raise HostFailed(
            f"{remote.host.name}: {runs} came up, not {before}",
            hint="choose it in the menu of the boot loader",
            log=remote.log,
        )
    return f"back on {before}"


def restore(remote: Remote, facts: Facts) -> None:
    """The boot loader's settings are as before us."""
    _boot(remote, facts, "restore")


def _reboot(remote: Remote, facts: Facts, timeout: float, hint: str = _HINTS[ONCE]) -> str:
    """Reboot, and the release of the kernel that came up; ``timeout`` in seconds, and what to do
    when it is over."""
    remote.reboot(facts.as_root, timeout, hint)
    return remote.run(["uname", "-r"]).stdout.strip()


def _boot(remote: Remote, facts: Facts, *words: str) -> str:
    """Run the script there; what it printed."""
    done = remote.run(
        [*facts.as_root, "sh", "-c", _SCRIPT.read_text(), "boot.sh", *words],
        timeout=_TIMEOUT,
        shown=" ".join(["boot.sh", *words]),
    )
    return done.stdout
