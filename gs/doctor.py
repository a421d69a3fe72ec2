"""`gs doctor`: what this machine offers, what is in the way, and the command that mends it.

Each check looks at files below a root directory (the machine's own, or a recorded one), changes
nothing, and gives findings; none of them may fail.
"""

from __future__ import annotations

import os
from typing import Callable, Iterator, Sequence

from . import backends, cgroup, shadowing
from .backends.kernel import KernelBackend
from .errors import GsError
from .paths import KernelFiles
from .record import Record

GOOD, NOTE, WARNING, BAD = "good", "note", "warning", "bad"
_MARKS = {GOOD: "ok  ", NOTE: "note", WARNING: "WARN", BAD: "BAD "}

#: The check whose findings decide whether a program can be protected.
_BACKEND_CHECK = "backend"


class Finding(Record):
    """One thing that was found: which check, how grave (good, note, warning, bad), what it means,
    and the command or the step that mends it (empty if there is nothing to mend)."""

    __slots__ = ("check", "level", "mend", "text")

    def __init__(self, check: str, level: str, text: str, mend: str = "") -> None:
        self.check = check
        self.level = level
        self.text = text
        self.mend = mend


class Machine:
    """Where a check looks: the root directory of a machine, and its kernel's files."""

    def __init__(self, root: str = "", files: KernelFiles | None = None) -> None:
        self.root = root
        self.files = files or KernelFiles()

    def read(self, path: str) -> str | None:
        """A file's text, or None if it is not there or not readable."""
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def list(self, path: str) -> list[str]:
        """The names in a directory; none if it is not there."""
        try:
            return sorted(os.listdir(self.root + path))
        except OSError:
            return []


def examine(machine: Machine | None = None) -> list[Finding]:
    """Everything that `gs doctor` says, in its order."""
    machine = machine or Machine()
    checks: Sequence[Callable[[Machine], Iterator[Finding]]] = (
        _check_backend,
        _check_features,
        _check_helpers,
        _check_cgroup,
        _check_swap,
        _check_overcommit,
        _check_name,
        _check_killers,
        _check_systemd,
    )
    return [finding for check in checks for finding in check(machine)]


def can_protect(findings: Sequence[Finding]) -> bool:
    """Whether `gs run` could protect a program here."""
    return not any(f.level == BAD for f in findings)


def report(findings: Sequence[Finding]) -> str:
    """The findings for people: a line each, and below it what mends it."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]} {finding.check + ':':<11} {finding.text}")
        if finding.mend:
            lines.append(f"{'':<16} -> {finding.mend}")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------- the kernel


def _check_backend(machine: Machine) -> Iterator[Finding]:
    backend = KernelBackend(machine.files)
    reason = backend.unusable()
    if reason is None:
        yield Finding(
            _BACKEND_CHECK, GOOD, f"`gs-oom run` takes {backend.describe()}: {backend.promise}"
        )
        return
    others = ", ".join(name for name in backends.NAMES if name.startswith("cgroup"))
    yield Finding(
        _BACKEND_CHECK,
        BAD,
        f"`gs-oom run` has none to take: {reason.what}: {reason.why} (this gs has no {others} yet)",
        reason.hint if "doctor" not in reason.hint else "boot a patched kernel",
    )


def _check_features(machine: Machine) -> Iterator[Finding]:
    found = backends.capabilities(files=machine.files).features
    if not found:
        return
    yield Finding(
        "kernel",
        GOOD,
        f"abi {found.get('abi')}, {found.get('attachment', '?')}, registry keys:"
        f" {found.get('keys') or 'none'}, reserve {found.get('reserve_kb', '?')} kB",
    )
    if machine.files.read_sysctl("enabled") == 0:
        yield Finding(
            "kernel",
            BAD,
            "handlers are switched off",
            "sysctl -w vm.graceful_shutdown_enabled=1",
        )
    if "scope" not in found.get("keys", ""):
        yield Finding(
            "kernel",
            NOTE,
            "no scope=tree: a handler covers the registered process, not its children",
        )


def _check_helpers(machine: Machine) -> Iterator[Finding]:
    if machine.read("/proc/sys/kernel/usermodehelper/bset") == "0\t0\n":
        yield Finding(
            "helpers",
            BAD,
            "the kernel may start no program with any capability"
            " (kernel.usermodehelper.bset is empty)",
            "it cannot be given back in this boot: remove it from /etc/sysctl.d and reboot",
        )
    config = _kernel_config(machine)
    if config is None:
        yield Finding(
            "helpers", NOTE, "the kernel's configuration is not there to look at (/boot/config-*)"
        )
    elif "CONFIG_STATIC_USERMODEHELPER=y" in config:
        yield Finding(
            "helpers",
            BAD,
            "CONFIG_STATIC_USERMODEHELPER is set: the kernel would start another program instead",
            "boot a kernel without it",
        )
    else:
        yield Finding("helpers", GOOD, "the kernel can start programs")


def _kernel_config(machine: Machine) -> str | None:
    config = machine.read(f"/boot/config-{os.uname().release}")
    if config is not None:
        return config
    import gzip

    try:
        with gzip.open(machine.root + "/proc/config.gz", "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError):
        return None


# ---------------------------------------------------------------------------- memory


def _check_cgroup(machine: Machine) -> Iterator[Finding]:
    where = cgroup.hierarchy(machine.root + "/proc")
    if where is None:
        yield Finding(
            "cgroup",
            WARNING,
            "no memory controller: --memory-max cannot work",
            "mount -t cgroup2 none /sys/fs/cgroup (or boot with cgroup_enable=memory)",
        )
        return
    here = f"v{where.version}, this process is in {where.own}"
    try:
        # Only at the root of the hierarchy would this change anything; there it always works.
        place = where.own if where.own == where.mount else cgroup.parent_for_child(where)
    except GsError as error:
        yield Finding(
            "cgroup", WARNING, f"memory controller {here}; --memory-max: {error.why}", error.hint
        )
        return
    if os.access(machine.root + place, os.W_OK):
        yield Finding("cgroup", GOOD, f"memory controller {here}")
    else:
        yield Finding(
            "cgroup",
            WARNING,
            f"memory controller {here}, where no group can be made: --memory-max cannot work",
            "be root; in a container, mount /sys/fs/cgroup writable",
        )
    left = [path for place in cgroup.places(where) for path in cgroup.stale(place)]
    if left:
        yield Finding(
            "cgroup",
            NOTE,
            f"{len(left)} empty groups of ended programs; the next --memory-max sweeps them away",
            f"rmdir {' '.join(left[:3])}{' ...' if len(left) > 3 else ''}",
        )


def _check_swap(machine: Machine) -> Iterator[Finding]:
    lines = (machine.read("/proc/swaps") or "").splitlines()[1:]
    if lines:
        yield Finding(
            "swap",
            NOTE,
            f"{len(lines)} swap area(s): a machine can thrash for long before its OOM decision",
            "limit what may swap: gs-oom run --memory-max SIZE (swap 0 unless --swap-max)",
        )
    else:
        yield Finding("swap", GOOD, "none: the OOM decision comes without thrashing first")


def _check_overcommit(machine: Machine) -> Iterator[Finding]:
    mode = (machine.read("/proc/sys/vm/overcommit_memory") or "").strip()
    if mode == "2":
        yield Finding(
            "overcommit",
            WARNING,
            "strict (2): allocations fail before there is an OOM, so handlers rarely run",
            "sysctl -w vm.overcommit_memory=0",
        )
    else:
        yield Finding("overcommit", GOOD, f"mode {mode or '?'}: memory runs out by use")
    if (machine.read("/proc/sys/vm/panic_on_oom") or "0").strip() != "0":
        yield Finding(
            "overcommit",
            WARNING,
            "vm.panic_on_oom is set: the machine panics and no handler runs",
            "sysctl -w vm.panic_on_oom=0",
        )


# ---------------------------------------------------------------------------- the name


def _check_name(machine: Machine) -> Iterator[Finding]:
    paths = shadowing.programs_on_path()
    ours = [path for path in paths if shadowing.is_ours(path)]
    others = [path for path in paths if path not in ours]
    if not others:
        yield Finding("name", GOOD, "no other program called gs on PATH")
    elif paths[0] in ours:
        yield Finding(
            "name",
            WARNING,
            f"{paths[0]} shadows {others[0]} (Ghostscript?); words that are not ours go on to it",
            f"rm {paths[0]}, and use gs-oom",
        )
    else:
        yield Finding("name", NOTE, f"gs is {others[0]} (Ghostscript?) here: use gs-oom")


# ---------------------------------------------------------------------------- others who kill


class _Killer(Record):
    """Somebody else's program that kills before the kernel decides."""

    __slots__ = ("exempt", "name", "watches")

    def __init__(self, name: str, watches: str, exempt: str) -> None:
        self.name = name
        self.watches = watches
        self.exempt = exempt


#: By the name in /proc/PID/comm, which the kernel cuts at 15 characters.
_KILLERS = {
    "systemd-oomd": _Killer(
        "systemd-oomd",
        "memory pressure and swap use of units with ManagedOOM*=kill (see: oomctl)",
        "systemctl edit UNIT, with [Service] ManagedOOMPreference=omit",
    ),
    "earlyoom": _Killer(
        "earlyoom",
        "the machine's free memory and swap; it is blind to cgroups",
        "add to EARLYOOM_ARGS in /etc/default/earlyoom: --avoid '^PROG$'",
    ),
    "nohang": _Killer(
        "nohang",
        "the machine's free memory, swap and pressure",
        "give PROG a badness adjustment in /etc/nohang/nohang.conf: @BADNESS_ADJ_RE_NAME -900",
    ),
    "oomd": _Killer(
        "oomd", "the cgroups in /etc/oomd.json", "leave the cgroup out in /etc/oomd.json"
    ),
    "kubelet": _Killer(
        "kubelet",
        "the node's memory.available; it evicts whole pods",
        "lower --eviction-hard memory.available, or give the pod a limit equal to its request",
    ),
}


def _check_killers(machine: Machine) -> Iterator[Finding]:
    active = set()
    for pid in filter(str.isdigit, machine.list("/proc")):
        comm = (machine.read(f"/proc/{pid}/comm") or "").rstrip("\n")
        if comm in _KILLERS:
            active.add(comm)
    for comm in sorted(active):
        killer = _KILLERS[comm]
        yield Finding(
            "killers",
            WARNING,
            f"{killer.name} is running and kills before the kernel decides, so that no handler"
            f" runs; it watches {killer.watches}",
            killer.exempt,
        )
    if not active:
        yield Finding("killers", GOOD, f"none of {', '.join(sorted(_KILLERS))} is running")


def _check_systemd(machine: Machine) -> Iterator[Finding]:
    if (machine.read("/proc/1/comm") or "").strip() != "systemd":
        return
    unit = _own_unit(machine)
    yield Finding(
        "systemd",
        NOTE,
        "OOMPolicy=stop, the default, stops a whole unit when one of its processes is OOM-killed"
        + (f" (this shell is in {unit})" if unit else ""),
        "start victims apart: systemd-run --scope -p OOMPolicy=continue gs-oom run ...;"
        " or systemctl edit UNIT, with [Service] OOMPolicy=continue",
    )


def _own_unit(machine: Machine) -> str | None:
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            for part in reversed(path.split("/")):
                if part.endswith((".service", ".scope")):
                    return part
    return None
