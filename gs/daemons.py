"""Which daemons the OOM killer would take before the process that really holds the memory, because
somebody gave one of them an oom_score_adj."""

from __future__ import annotations

from .bystanders import is_critical, unit_in
from .finding import WARNING, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .choice import Snapshot
    from .proctree import Process

#: More who run containers, by the name of the process.
_RUNTIMES = frozenset(("dockerd", "conmon", "conmonrs", "containerd-shim", "containerd-shim-"))
_SYSTEM_SLICE = "/system.slice/"


def hog(snapshot: Snapshot) -> Process | None:
    """The process that holds the most memory, whatever its oom_score_adj; None without any."""
    holders = [one for one in snapshot.processes if one.has_memory]
    return max(holders, key=lambda one: one.weight, default=None)


def critical(snapshot: Snapshot, process: Process) -> str:
    """What a process is that the machine depends on, empty if it is no such thing: sshd, a unit of
    the system slice, the kubelet, or who runs containers."""
    if process.comm in _RUNTIMES:
        return process.comm
    # A child of init: a session of sshd, or somebody's own message bus, is not the daemon.
    if is_critical(process.comm) and process.ppid <= 1:
        return process.comm
    path = snapshot.group_of.get(process.pid, "")
    unit = unit_in(path) if path.startswith(_SYSTEM_SLICE) else None
    # A scope holds what somebody has started there: containers, mostly.
    return unit if unit is not None and unit.endswith(".service") else ""


def before_the_hog(snapshot: Snapshot) -> Iterator[Finding]:
    """A finding for each of them, the worst first."""
    first = hog(snapshot)
    if first is None or critical(snapshot, first):
        return
    mark = None if snapshot.exempt(first) else snapshot.points(first)
    in_front = [
        one
        for one in snapshot.processes
        if one is not first
        and not snapshot.exempt(one)
        and (mark is None or snapshot.points(one) > mark)
        and critical(snapshot, one)
    ]
    for one in sorted(in_front, key=lambda one: -snapshot.points(one)):
        yield _finding(snapshot, one, first)


def _finding(snapshot: Snapshot, daemon: Process, first: Process) -> Finding:
    what = critical(snapshot, daemon)
    name = daemon.comm if what == daemon.comm else f"{daemon.comm} of {what}"
    text = (
        f"{name} ({daemon.pid}, oom_score_adj {daemon.adj}, {daemon.weight} pages) would be chosen"
        f" before {first.comm} ({first.pid}, oom_score_adj {first.adj}, {first.weight} pages)"
    )
    exempt = snapshot.exempt(first)
    if exempt and first.adj >= 0:
        return Finding("daemons", WARNING, f"{text}: {exempt}")
    if daemon.adj > 0 and first.adj >= 0:
        mend = f"choom -n 0 -p {daemon.pid}"
    else:
        mend = f"choom -n 0 -p {first.pid}, or choom -n -1000 -p {daemon.pid}"
    return Finding("daemons", WARNING, text, mend)
