"""What else on a machine has a part in an OOM: programs that kill before the kernel does, daemons
that nobody can do without, and groups of processes that end together."""

from __future__ import annotations

from . import cgroup, registry
from .errors import GsError
from .finding import GOOD, NOTE, WARNING, Finding
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .finding import Machine


# ---------------------------------------------------------------------------- others who kill


class _Killer(Record):
    """Somebody else's program that kills before the kernel decides."""

    __slots__ = ("exempt", "name", "watches")

    def __init__(self, name: str, watches: str, exempt: str) -> None:
        self.name = name
        self.watches = watches
        self.exempt = exempt


#: By the name of the process.
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


def check_killers(machine: Machine) -> Iterator[Finding]:
    """Programs that kill sooner, so that no handler runs."""
    active = {comm for _, comm in machine.processes() if comm in _KILLERS}
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


# ---------------------------------------------------------------------------- daemons

#: Without these nobody logs in, no unit starts, no disk answers; by the name of the process.
_CRITICAL = frozenset(
    ("sshd", "systemd-udevd", "dbus-daemon", "dbus-broker-lau", "containerd", "crio", "kubelet")
    + ("multipathd", "iscsid")
)
#: As systemd protects its own: chosen only when hardly anything else is left.
_PROTECTED = -900


def is_critical(comm: str) -> bool:
    """Whether a process of this name is, in all likelihood, a daemon that nobody can do without."""
    return comm in _CRITICAL


def check_daemons(machine: Machine) -> Iterator[Finding]:
    """Whether the OOM killer may choose a daemon on which the machine depends."""
    safe = []
    for pid, comm in machine.processes():
        # A child of init: a session of sshd, or somebody's own message bus, is not the daemon.
        if not is_critical(comm) or _status(machine, pid, "PPid") != "1":
            continue
        adj = int(machine.read(f"/proc/{pid}/oom_score_adj") or 0)
        if adj <= _PROTECTED:
            safe.append(comm)
            continue
        unit = unit_of(machine, pid)
        for_good = f"; for good: systemctl edit {unit}, with [Service] OOMScoreAdjust=-1000"
        yield Finding(
            "daemons",
            WARNING,
            f"{comm} ({pid}) may be chosen as a victim: its oom_score_adj is {adj}",
            f"choom -n -1000 -p {pid}{for_good if unit else ''}",
        )
    if safe:
        yield Finding("daemons", GOOD, f"hardly ever chosen: {', '.join(sorted(set(safe)))}")


def _status(machine: Machine, pid: str, key: str) -> str | None:
    for line in (machine.read(f"/proc/{pid}/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return value.strip()
    return None


# ---------------------------------------------------------------------------- groups


def _of_concern(machine: Machine) -> list[str]:
    """The processes whose groups matter: this one, and those that are registered."""
    try:
        registered = registry.registrations(files=machine.files)
    except GsError:
        registered = []
    return ["self", *(str(registration.pid) for registration in registered)]


def unit_of(machine: Machine, pid: str) -> str | None:
    """The systemd unit that a process belongs to."""
    for line in (machine.read(f"/proc/{pid}/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        unit = unit_in(path) if controllers in ("", "name=systemd") else None
        if unit is not None:
            return unit
    return None


def unit_in(path: str) -> str | None:
    """The unit that the path of a cgroup names."""
    for part in reversed(path.split("/")):
        if part.endswith((".service", ".scope")):
            return part
    return None


def check_groups(machine: Machine) -> Iterator[Finding]:
    """Memory cgroups whose processes are killed together (v2)."""
    together = set()
    for pid in _of_concern(machine):
        where = cgroup.hierarchy(machine.root + "/proc", pid)
        if where is not None:
            together.update(cgroup.killed_together(where))
    for path in sorted(together):
        yield Finding(
            "groups",
            NOTE,
            f"memory.oom.group is set in {path}: an OOM kill there ends every process in it,"
            " registered or not",
            f"echo 0 > {path}/memory.oom.group (systemd sets it for OOMPolicy=kill, container"
            " runtimes for a container)",
        )


_POLICIES = {
    "continue": (GOOD, "an OOM kill ends its victim alone"),
    "stop": (NOTE, "the whole unit is stopped when one of its processes is OOM-killed"),
    "kill": (NOTE, "an OOM kill of one of its processes kills them all"),
}


def check_systemd(machine: Machine) -> Iterator[Finding]:
    """What systemd does to the rest of a unit after an OOM kill in it."""
    if (machine.read("/proc/1/comm") or "").strip() != "systemd":
        return
    units = {unit: None for unit in (unit_of(machine, pid) for pid in _of_concern(machine)) if unit}
    for unit in units:
        policy = _property(machine, "OOMPolicy", unit)
        if policy is not None:
            level, meaning = _POLICIES.get(policy, (NOTE, "a policy that this gs does not know"))
            mend = "" if level == GOOD else _other_policy(unit)
            yield Finding("systemd", level, f"{unit} has OOMPolicy={policy}: {meaning}", mend)
    default = _property(machine, "DefaultOOMPolicy")
    if default != "continue":
        yield Finding(
            "systemd",
            NOTE,
            f"services have OOMPolicy={default or 'stop'} unless they say otherwise: one OOM kill"
            " ends the unit",
            _other_policy("UNIT.service"),
        )


def _other_policy(unit: str) -> str:
    if unit.endswith(".scope"):
        return "start victims apart: systemd-run --scope -p OOMPolicy=continue gs-oom run ..."
    return f"systemctl edit {unit}, with [Service] OOMPolicy=continue, and restart it"


def _property(machine: Machine, name: str, *unit: str) -> str | None:
    """A property of a unit, or of systemd itself; scopes have no OOMPolicy before systemd 253."""
    said = machine.ask("systemctl", "show", f"--property={name}", *unit) or ""
    return said.strip().partition("=")[2] or None
