"""`gs module`: the module for stock kernels, built by DKMS, loaded, taken out, and where it stands.

Says what is in the way: no sources, no DKMS, no headers, Secure Boot, a kernel that refuses it.
"""

from __future__ import annotations

import os
import re

from . import procfile
from .errors import GsError, NotSupported, PermissionDenied
from .finding import Machine
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence

NAME = "gs_oom"

#: What the package gs-oom-dkms is called there.
DKMS_NAME = "gs-oom"
SOURCES = "/usr/src"

#: How a line of the module's own begins, in the kernel log.
_SAID = re.compile(rf"\b{NAME}: (.*)")

#: Where the key may be that DKMS signs with: Ubuntu's, which its installer enrolls, before its own.
_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")

#: What rmmod says of a module that somebody has a reference on.
_IN_USE = "is in use"

#: Seconds between two attempts to take it out.
_PAUSE = 0.2


class Status(Record):
    """Where the module stands on this machine.

    ``sources``: the version that DKMS can build, ``built``: the file for the running kernel,
    ``attachment``: of the core that runs (builtin, module, or empty), ``users``: graces that run
    and open event streams, ``secure_boot``, ``lockdown`` and ``sig_enforce`` (whether it takes
    signed modules only) as the kernel has them.
    """

    __slots__ = (
        "attachment",
        "built",
        "loaded",
        "lockdown",
        "release",
        "secure_boot",
        "sig_enforce",
        "sources",
        "users",
    )

    def __init__(
        self,
        release: str,
        sources: str,
        built: str,
        loaded: bool,
        users: int,
        attachment: str,
        secure_boot: bool,
        lockdown: str,
        sig_enforce: bool = False,
    ) -> None:
        self.release = release
        self.sources = sources
        self.built = built
        self.loaded = loaded
        self.users = users
        self.attachment = attachment
        self.secure_boot = secure_boot
        self.lockdown = lockdown
        self.sig_enforce = sig_enforce


def status(machine: Machine | None = None) -> Status:
    """Looks at files only."""
    machine = machine or Machine()
    release = os.uname().release
    users = _users(machine)
    return Status(
        release=release,
        sources=_sources(machine),
        built=_built(machine, release),
        loaded=users is not None,
        users=users or 0,
        attachment=_attachment(machine),
        secure_boot=_secure_boot(machine),
        lockdown=_lockdown(machine),
        sig_enforce=_sig_enforce(machine),
    )


def _users(machine: Machine) -> int | None:
    """None where it is not loaded."""
    text = machine.read(f"/sys/module/{NAME}/refcnt")
    return None if text is None else int(text)


def _sources(machine: Machine) -> str:
    prefix = f"{DKMS_NAME}-"
    found = [name[len(prefix) :] for name in machine.list(SOURCES) if name.startswith(prefix)]
    return max(found, key=_numbers, default="")


def _numbers(version: str) -> list[int]:
    """What versions are compared by: 0.10 is newer than 0.9."""
    return [int(digits) for digits in re.findall(r"\d+", version)]


def _built(machine: Machine, release: str) -> str:
    for folder in ("updates/dkms", "updates", "extra"):
        place = f"/lib/modules/{release}/{folder}"
        for name in machine.list(place):
            if name.split(".")[0] == NAME:
                return f"{place}/{name}"
    return ""


def _attachment(machine: Machine) -> str:
    text = machine.read("/proc/graceful_shutdown_features") or ""
    return procfile.parse_features(text).get("attachment", "")


def _secure_boot(machine: Machine) -> bool:
    """Four bytes of attributes, and one that tells."""
    names = machine.list("/sys/firmware/efi/efivars")
    for name in names:
        if name.startswith("SecureBoot-"):
            text = machine.read(f"/sys/firmware/efi/efivars/{name}") or ""
            return text.endswith("\x01")
    return False


def _lockdown(machine: Machine) -> str:
    """The word in brackets: none, integrity or confidentiality."""
    chosen = re.search(r"\[(\w+)\]", machine.read("/sys/kernel/security/lockdown") or "")
    return chosen.group(1) if chosen else "none"


def _sig_enforce(machine: Machine) -> bool:
    return (machine.read("/sys/module/module/parameters/sig_enforce") or "").strip() == "Y"


# ---------------------------------------------------------------------------- what it does


def build() -> None:
    """Have DKMS build and install it for the running kernel; nothing happens if it is there."""
    _expect_root("cannot build the module")
    now = status()
    if now.built:
        return
    if not now.sources:
        raise NotSupported(
            "cannot build the module",
            f"its sources are not in {SOURCES}",
            "install the package gs-oom-dkms",
        )
    if not os.path.exists(f"/lib/modules/{now.release}/build"):
        raise NotSupported(
            "cannot build the module",
            f"the headers of the kernel {now.release} are not installed",
            f"apt-get install linux-headers-{now.release}",
        )
    _run(
        ["dkms", "install", f"{DKMS_NAME}/{now.sources}", "-k", now.release],
        "cannot build the module",
        "apt-get install dkms",
    )


def load() -> None:
    """modprobe; if the kernel refuses it, says why as far as it told."""
    _expect_root("cannot load the module")
    now = status()
    if now.attachment:
        return
    if not now.built:
        raise NotSupported(
            "cannot load the module",
            f"there is none for the kernel {now.release}",
            "gs-oom module build",
        )
    before = _kernel_log()[-1:]
    try:
        _run(["modprobe", NAME], "cannot load the module", "apt-get install kmod")
    except NotSupported as error:
        raise _refused(now, error, _since(before, _kernel_log())) from None


def _since(last: Sequence[str], log: Sequence[str]) -> Sequence[str]:
    """What follows the line in ``last``. In a full ring it may be gone: then all is newer."""
    for number in range(len(log), 0, -1):
        if [log[number - 1]] == last:
            return log[number:]
    return log


def _refused(
    now: Status, error: GsError, log: Sequence[str], machine: Machine | None = None
) -> GsError:
    """modprobe has only an errno to show; the kernel log has the reason."""
    said = [found.group(1) for found in map(_SAID.search, log) if found]
    reasons = [text for text in said if "not loaded" in text]
    if reasons:
        return NotSupported("the kernel did not take the module", reasons[-1], "gs-oom doctor")
    why = _signature_wanted(now)
    if not why:
        return error
    return NotSupported(
        "the kernel did not take the module",
        why,
        f"mokutil --import {_key(machine or Machine())}, reboot, and enroll the key",
    )


def _signature_wanted(now: Status) -> str:
    """Why the kernel takes signed modules only; empty where it takes any."""
    if now.secure_boot:
        return "Secure Boot is on, and the key that signed it is not enrolled"
    if now.lockdown != "none":
        return f"the kernel is locked down ({now.lockdown}), and the module is not signed"
    if now.sig_enforce:
        return "the kernel takes signed modules only (module.sig_enforce)"
    return ""


def _key(machine: Machine) -> str:
    """The first that is there."""
    there = [path for path in _KEYS if os.path.exists(machine.root + path)]
    return (there or _KEYS[-1:])[0]


def unload(wait: float = 0.0, tell: Callable[[str], None] = print) -> None:
    """rmmod, tried for up to ``wait`` seconds while a grace runs or an event stream is open."""
    import time

    _expect_root("cannot take the module out")
    machine = Machine()
    deadline = time.monotonic() + wait
    told = False
    while _users(machine) is not None:
        try:
            _run(["rmmod", NAME], "cannot take the module out", "apt-get install kmod")
        except NotSupported as error:
            if _IN_USE not in error.why:
                raise
            users = _users(machine) or 0
            if time.monotonic() >= deadline:
                raise _in_use(users) from None
            if not told:
                tell(f"in use ({users}): waiting up to {wait:g} s")
                told = True
            time.sleep(_PAUSE)


def _in_use(users: int) -> GsError:
    return NotSupported(
        "the module is in use",
        f"{users} graces and open event streams by now",
        "try again after the kill, or end gs-oom watch; or: gs-oom module unload --wait 30s",
    )


# ---------------------------------------------------------------------------- other programs


def _expect_root(what: str) -> None:
    if os.geteuid() != 0:
        raise PermissionDenied(what, "that takes root", "sudo gs-oom module ...")


def _run(words: Sequence[str], what: str, hint: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise NotSupported(what, f"{words[0]}: {error.strerror}", hint) from None
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        raise NotSupported(what, lines[-1] if lines else f"{words[0]} ended with a failure")
    return done.stdout


def _kernel_log() -> list[str]:
    return (Machine().ask("dmesg") or "").splitlines()
