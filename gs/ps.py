"""`gs ps`: takes one look at the machine, and says of each process what there is to know of it."""

from __future__ import annotations

import os

from . import cgroup, memgroups, proctree, registry, runfile
from .choice import Choice, Settings, Snapshot, choices
from .daemons import before_the_hog
from .errors import GsError, NotSupported, UsageError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Sequence

    from .finding import Finding
    from .proctree import Process
    from .registry import Registration

#: How a registration covers a process: its own, or that of an ancestor or of its group.
OWN, TREE = "own", "tree"


class Row(Record):
    """A process as it is shown: its depth in the tree, its group's path (None: not seen), and the
    registration that covers it, if one does."""

    __slots__ = ("command", "covered", "depth", "path", "process", "registration", "why_exempt")

    def __init__(
        self,
        process: Process,
        depth: int = 0,
        path: str | None = None,
        registration: Registration | None = None,
        covered: str | None = None,
        why_exempt: str = "",
        command: Sequence[str] | None = None,
    ) -> None:
        self.process = process
        self.depth = depth
        self.path = path
        self.registration = registration
        self.covered = covered
        self.why_exempt = why_exempt
        self.command = command


class Report(Record):
    """All that `gs ps` says."""

    __slots__ = ("choices", "findings", "is_registry_known", "rows", "snapshot")

    def __init__(
        self,
        snapshot: Snapshot,
        rows: Sequence[Row],
        choices: Sequence[Choice],
        findings: Sequence[Finding],
        is_registry_known: bool,
    ) -> None:
        self.snapshot = snapshot
        self.rows = rows
        self.choices = choices
        self.findings = findings
        self.is_registry_known = is_registry_known


def look(proc: str = "/proc", where: cgroup.Hierarchy | None = None) -> Snapshot:
    """The machine now: all processes, all memory cgroups that anybody is in, and what of the
    settings counts. ``where`` is the hierarchy of memory cgroups (None: no such controller).

    Raises NotSupported where ``proc`` shows no processes.
    """
    memory, swap = proctree.memory_pages(proc)
    groups = {} if where is None else memgroups.read(where, swap)
    processes = _processes(proc)
    settings = Settings(
        memory + swap,
        cgroup.read_number(f"{proc}/sys/vm/oom_kill_allocating_task") or 0,
        cgroup.read_number(f"{proc}/sys/vm/panic_on_oom") or 0,
    )
    snapshot = Snapshot(processes, groups, settings, proc)
    controller = "memory" if where is not None and where.version == 1 else ""
    _place_the_others(snapshot, controller)
    return snapshot


def _processes(proc: str) -> list[Process]:
    try:
        found = proctree.read(proc)
    except OSError as error:
        raise NotSupported(f"cannot read {proc}", str(error.strerror), "mount it there") from None
    if not found:
        raise NotSupported(f"no process is seen in {proc}", "it is no proc file system")
    return found


def _place_the_others(snapshot: Snapshot, controller: str) -> None:
    """Those that no group names: what has ended, what is outside of the part that is mounted."""
    for one in snapshot.processes:
        if one.pid not in snapshot.group_of:
            path = cgroup.groups_of(str(one.pid), snapshot.proc).get(controller)
            if path is not None:
                snapshot.group_of[one.pid] = path


def covering(
    where: cgroup.Hierarchy | None,
) -> tuple[list[Registration] | None, list[tuple[str, Registration]]]:
    """The kernel's registrations, None where they may not be read; and those of guarded runs, each
    with the path of its group."""
    known: list[Registration] | None
    try:
        known = registry.registrations()
    except NotSupported:
        known = []  # there is no registry that anybody could be in
    except GsError:
        known = None
    if where is None:
        return known, []
    return known, [
        (
            directory[len(where.mount) :] or memgroups.ROOT,
            registry.Registration.from_entry(entry),
        )
        for directory, entry in runfile.guarded_groups()
    ]


def report(
    snapshot: Snapshot,
    registrations: Iterable[Registration] | None,
    guarded: Iterable[tuple[str, Registration]] = (),
    *,
    within: str | None = None,
    by_score: bool = False,
    with_commands: bool = False,
) -> Report:
    """What is said of the machine, or of the processes in the group ``within`` and below it.

    ``registrations`` are the kernel's (None: they cannot be read), ``guarded`` are those of runs
    with guards, each with the path of its group.
    """
    shown = [
        one
        for one in snapshot.processes
        if within is None or memgroups.is_within(snapshot.group_of.get(one.pid, ""), within)
    ]
    cover = _Cover(snapshot, registrations or (), guarded)
    if by_score:
        ordered = [(0, one) for one in sorted(shown, key=lambda one: _rank(snapshot, one))]
    else:
        ordered = list(proctree.in_order(shown))
    rows = []
    for depth, one in ordered:
        registration, covered = cover.of(one)
        command = proctree.command_line(one.pid, snapshot.proc) if with_commands else None
        rows.append(
            Row(
                one,
                depth,
                snapshot.group_of.get(one.pid),
                registration,
                covered,
                snapshot.exempt(one),
                command,
            )
        )
    return Report(
        snapshot,
        rows,
        choices(snapshot, within),
        list(before_the_hog(snapshot)),
        registrations is not None,
    )


def _rank(snapshot: Snapshot, one: Process) -> tuple[int, int]:
    """The highest oom_score first; of equal ones who holds most, which the score does not tell."""
    return (-one.score, -snapshot.points(one) if one.has_memory else 0)


class _Cover:
    """Which registration a process has, by itself or by an ancestor or a group."""

    def __init__(
        self,
        snapshot: Snapshot,
        registrations: Iterable[Registration],
        guarded: Iterable[tuple[str, Registration]],
    ) -> None:
        self._snapshot = snapshot
        self._own = {one.pid: one for one in registrations}
        self._groups = list(guarded)
        self._own.update({one.pid: one for _, one in self._groups})

    def of(self, process: Process) -> tuple[Registration | None, str | None]:
        """The registration and how it covers: the own one, else that of the nearest ancestor that
        covers its descendants, as the kernel looks for it, else that of a guarded group."""
        if process.pid in self._own:
            return self._own[process.pid], OWN
        above = self._snapshot.by_pid.get(process.ppid)
        seen = {process.pid}
        while self._own and above is not None and above.pid not in seen:
            found = self._own.get(above.pid)
            if found is not None and found.scope == "tree":
                return found, TREE
            seen.add(above.pid)
            above = self._snapshot.by_pid.get(above.ppid)
        path = self._snapshot.group_of.get(process.pid, "")
        for group, found in self._groups:
            if found.scope == "tree" and memgroups.is_within(path, group):
                return found, TREE
        return None, None


# ---------------------------------------------------------------------------- the group asked for


def group_path(text: str, where: cgroup.Hierarchy | None) -> str:
    """A group as it was given, a directory or a path in the hierarchy, as a path in it.

    Raises NotSupported without a memory controller, UsageError if there is no such group.
    """
    if where is None:
        raise cgroup.not_mounted(f"cannot look into {text}")
    absolute = os.path.abspath(text)
    if memgroups.is_within(absolute, where.mount):
        path = absolute[len(where.mount) :] or memgroups.ROOT
    else:
        path = "/" + text.strip("/")
    if not os.path.isdir(where.mount + path):
        raise UsageError(
            f"no memory cgroup {text}",
            f"there is no {where.mount}{path.rstrip('/')}",
            "give its directory, or its path as /proc/PID/cgroup has it",
        )
    return path


# ---------------------------------------------------------------------------- for programs


def as_json(said: Report) -> dict[str, Any]:
    """The whole report as JSON has it; memory of processes in kB, limits in bytes, points in
    pages."""
    snapshot = said.snapshot
    return {
        "page_size": proctree.PAGE,
        **snapshot.settings.as_dict(),
        "whole_machine": snapshot.is_whole_machine,
        "processes": [_row_as_json(snapshot, row) for row in said.rows],
        "cgroups": [_group_as_json(one) for one in _groups_of(said)],
        "would_be_chosen": [one.as_dict() for one in said.choices],
        "daemons_before_the_hog": [one.as_dict() for one in said.findings],
    }


def _row_as_json(snapshot: Snapshot, row: Row) -> dict[str, Any]:
    one, limit = row.process, None if row.path is None else snapshot.limit_of(row.path)
    found: dict[str, Any] = {
        "pid": one.pid,
        "ppid": one.ppid,
        "comm": one.comm,
        "state": one.state,
        "threads": one.threads,
        "depth": row.depth,
        "oom_score": one.score,
        "oom_score_adj": one.adj,
        "points": snapshot.points(one),
        "exempt": row.why_exempt or None,
        "rss_kb": one.rss_kb,
        "swap_kb": one.swap_kb,
        "pgtables_kb": one.pgtables_kb,
        "cgroup": row.path,
        "limited_by": None if limit is None else limit.path,
        "covered": row.covered,
        "registration": None if row.registration is None else row.registration.as_dict(),
    }
    if row.command is not None:
        found["command"] = list(row.command)
    return found


def _groups_of(said: Report) -> list[memgroups.MemGroup]:
    """Those that a process shown is in, those around them, and those with a limit that counts."""
    wanted = {one.group for one in said.choices if one.group is not None}
    for row in said.rows:
        path = row.path
        while path is not None and path not in wanted:
            wanted.add(path)
            path = memgroups.parent_of(path)
    return [group for path, group in sorted(said.snapshot.groups.items()) if path in wanted]


def _group_as_json(group: memgroups.MemGroup) -> dict[str, Any]:
    return {
        "path": group.path,
        "limit": group.limit,
        "usage": group.usage,
        "oom_group": group.kills_all,
        "oom_kill_disable": group.kills_none,
        "total": group.total,
        "processes": len(group.pids),
    }
