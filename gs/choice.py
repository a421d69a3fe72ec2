"""Whom the OOM killer would choose as things stand: in the machine, and in each group with a limit.

What mm/oom_kill.c does is done again with figures that /proc shows. What /proc does not show it
tells indirectly: a process that the kernel passes over has an oom_score of 0.
"""

from __future__ import annotations

from . import _sys, memgroups
from .proctree import PAGE, start_time
from .record import Record
from .victims import NEVER, badness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, Sequence

    from .memgroups import MemGroup
    from .proctree import Process

_INIT = 1
#: Below this a process that may be chosen can have an oom_score of 0, too.
_TELLING_SCORE = 3
#: What the memory of a process may change by from one reading to the next.
_MOVED_KB = 256


class Settings(Record):
    """What of the machine has a part in the choice: pages of memory and swap together, and the
    sysctls vm.oom_kill_allocating_task and vm.panic_on_oom."""

    __slots__ = ("kill_allocating_task", "panic_on_oom", "total")

    def __init__(self, total: int, kill_allocating_task: int = 0, panic_on_oom: int = 0) -> None:
        self.total = total
        self.kill_allocating_task = kill_allocating_task
        self.panic_on_oom = panic_on_oom


class Snapshot:
    """Processes, groups and settings of one moment. ``group_of`` is the path of each process's
    memory cgroup, by its number; whoever is in none that can be seen is missing."""

    def __init__(
        self,
        processes: Sequence[Process],
        groups: dict[str, MemGroup],
        settings: Settings,
        proc: str = "/proc",
    ) -> None:
        self.processes = [one for one in processes if not one.is_kernel_thread]
        self.by_pid = {one.pid: one for one in self.processes}
        self.groups = groups
        self.settings = settings
        self.proc = proc
        self.group_of = {pid: group.path for group in groups.values() for pid in group.pids}
        self._children: dict[int, list[Process]] = {}
        #: In a container neither kernel threads nor the machine's own init are seen.
        self.is_whole_machine = len(self.processes) < len(processes)
        self.old_scale = _is_old_scale(self.processes, settings.total)

    def points(self, process: Process, total: int | None = None) -> int:
        """What the kernel compares, in pages, for the machine or for ``total`` pages."""
        return badness(process.weight, process.adj, total or self.settings.total)

    def exempt(self, process: Process) -> str:
        """Why the kernel would pass over a process, empty if it would not."""
        if process.pid == _INIT and self.is_whole_machine:
            return "init is never chosen"
        if not process.has_memory:
            return "it has ended and holds no memory"
        if process.adj == NEVER:
            return "its oom_score_adj is -1000"
        likely = score_of(self.points(process), self.settings.total)
        if not self.old_scale and process.score == 0 and likely >= _TELLING_SCORE:
            return "the kernel passes over it: between vfork and exec, or its memory is being freed"
        return ""

    def within(self, group: MemGroup) -> Iterator[Process]:
        """The processes that an OOM of the group is about."""
        for one in self.groups.values():
            if one.path == group.path or (
                not group.alone and memgroups.is_within(one.path, group.path)
            ):
                yield from (self.by_pid[pid] for pid in one.pids if pid in self.by_pid)

    def relatives(self, process: Process) -> list[Process]:
        """Its parent, if that is seen, and its children."""
        if not self._children:
            for one in self.processes:
                self._children.setdefault(one.ppid, []).append(one)
        parent = self.by_pid.get(process.ppid)
        return [*([parent] if parent else ()), *self._children.get(process.pid, ())]

    def limit_of(self, path: str) -> MemGroup | None:
        """The group with the nearest limit, from this one upwards."""
        above: str | None = path
        while above is not None:
            group = self.groups.get(above)
            if group is not None and group.limit is not None:
                return group
            above = memgroups.parent_of(above)
        return None


def score_of(points: int, total: int, old_scale: bool = False) -> int:
    """What /proc/PID/oom_score shows of so many points: up to 1000 on kernels before 5.9 (and
    those of 5.4 before the change was taken over), then up to 2000. Source: fs/proc/base.c,
    proc_oom_score()."""
    total = max(total, 1)
    if old_scale:
        return max(points, 1) * 1000 // total
    scaled = int(points * 1000 / total)  # C divides towards zero
    return max(1000 + scaled, 0) * 2 // 3


def _is_old_scale(processes: Iterable[Process], total: int) -> bool:
    """Which of the two scales fits what was read better."""
    distance = {False: 0, True: 0}
    for one in processes:
        if one.has_memory and one.adj != NEVER and one.pid != _INIT:
            points = badness(one.weight, one.adj, total)
            for old in distance:
                distance[old] += abs(one.score - score_of(points, total, old))
    return distance[True] < distance[False]


# ---------------------------------------------------------------------------- the choice


class Choice(Record):
    """What an OOM would come to: ``group`` is the path of the one at its limit, None of the whole
    machine; ``pid`` whom the kernel chooses, None if nobody, and ``why``.

    ``killed`` are all that end with it: more than one where ``together`` names a group with
    memory.oom.group. ``points`` are pages, of ``total``; ``runner_up`` is the next. ``notes``
    are what could change it.
    """

    __slots__ = (
        "comm",
        "group",
        "killed",
        "notes",
        "pid",
        "points",
        "runner_up",
        "together",
        "total",
        "why",
    )

    def __init__(
        self,
        group: str | None,
        total: int,
        why: str,
        pid: int | None = None,
        comm: str = "",
        points: int | None = None,
        killed: tuple[int, ...] = (),
        together: str | None = None,
        runner_up: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.group = group
        self.total = total
        self.why = why
        self.pid = pid
        self.comm = comm
        self.points = points
        self.killed = killed
        self.together = together
        self.runner_up = runner_up
        self.notes = notes


def choices(snapshot: Snapshot, within: str | None = None) -> list[Choice]:
    """For the whole machine, and for each group with a limit and somebody in it; with ``within``
    only for limits that concern this group."""
    limited = sorted(
        path
        for path, group in snapshot.groups.items()
        if group.limit is not None
        and (
            within is None or memgroups.is_within(path, within) or memgroups.is_within(within, path)
        )
    )
    return [in_machine(snapshot), *(in_group(snapshot, snapshot.groups[p]) for p in limited)]


def in_machine(snapshot: Snapshot) -> Choice:
    """Whom the kernel would choose if the whole machine ran out of memory."""
    settings = snapshot.settings
    if settings.panic_on_oom:
        return Choice(None, settings.total, "vm.panic_on_oom is set: the machine panics")
    choice = _choose(snapshot, None, settings.total, snapshot.processes)
    if settings.kill_allocating_task:
        note = f"{choice.pid} ({choice.comm}) where that one is exempt" if choice.pid else ""
        return Choice(
            None,
            settings.total,
            "vm.oom_kill_allocating_task is set: whoever asks for memory is killed",
            notes=(note,) if note else (),
        )
    if not snapshot.is_whole_machine:
        note = "a container, or hidepid: only a part of the machine's processes is seen here"
        return choice.replace(notes=(*choice.notes, note))
    return choice


def in_group(snapshot: Snapshot, group: MemGroup) -> Choice:
    """Whom the kernel would choose if a group with a limit reached it."""
    total = group.total or 0
    if group.kills_none:
        why = "its OOM killer is off (memory.oom_control): who asks stands still"
        return Choice(group.path, total, why)
    if snapshot.settings.panic_on_oom == 2:
        return Choice(group.path, total, "vm.panic_on_oom is 2: the machine panics")
    return _choose(snapshot, group, total, list(snapshot.within(group)))


def _choose(
    snapshot: Snapshot, group: MemGroup | None, total: int, processes: Sequence[Process]
) -> Choice:
    path = None if group is None else group.path
    # In a group without any, nobody is left to be killed by the time it would be needed.
    total = max(total, 1)
    weighed = [(snapshot.points(one, total), one) for one in processes if not snapshot.exempt(one)]
    if not weighed:
        return Choice(path, total, _nobody(snapshot, processes))
    most = max(points for points, _ in weighed)
    equal = [one for points, one in weighed if points == most]
    chosen = _last_started(equal, snapshot.proc)
    rest = sorted(((p, one) for p, one in weighed if one is not chosen), key=lambda row: -row[0])
    together = _killed_together(snapshot, chosen, group)
    killed = {chosen.pid, *_sharers(snapshot, chosen)}
    if together is not None:
        members = snapshot.within(snapshot.groups[together])
        killed.update(one.pid for one in members if _may_be_killed(snapshot, one))
    return Choice(
        path,
        total,
        _arithmetic(chosen, total),
        chosen.pid,
        chosen.comm,
        most,
        tuple(sorted(killed)),
        together,
        rest[0][1].pid if rest else None,
        tuple(_notes(snapshot, chosen, equal, processes)),
    )


def _last_started(equal: Sequence[Process], proc: str) -> Process:
    """Of equal ones the kernel takes the last that it meets; processes stand in its list in the
    order in which they began."""
    if len(equal) == 1:
        return equal[0]
    return max(equal, key=lambda one: (start_time(one.pid, proc), one.pid))


def _killed_together(snapshot: Snapshot, chosen: Process, group: MemGroup | None) -> str | None:
    """The highest group with memory.oom.group around the chosen, within the one at its limit.
    Source: mm/memcontrol.c, mem_cgroup_get_oom_group()."""
    found = None
    path = snapshot.group_of.get(chosen.pid)
    while path is not None:
        if path in snapshot.groups and snapshot.groups[path].kills_all:
            found = path
        if group is not None and path == group.path:
            break
        path = memgroups.parent_of(path)
    return found


def _may_be_killed(snapshot: Snapshot, one: Process) -> bool:
    return (
        one.has_memory and one.adj != NEVER and not (one.pid == _INIT and snapshot.is_whole_machine)
    )


def _sharers(snapshot: Snapshot, chosen: Process) -> Iterator[int]:
    """Of its parent and its children those who have the memory of the chosen: they are killed with
    it, whatever their oom_score_adj is."""
    for one in snapshot.relatives(chosen):
        # One address space has one set of figures; they may have moved between two readings.
        alike = one.pgtables_kb == chosen.pgtables_kb and one.swap_kb == chosen.swap_kb
        if not (one.has_memory and alike and one.pid != _INIT):
            continue
        if abs(one.rss_kb - chosen.rss_kb) <= _MOVED_KB:
            shared = _sys.share_memory(one.pid, chosen.pid)
            if shared or (shared is None and one.ppid == chosen.pid and snapshot.exempt(one)):
                yield one.pid


def _arithmetic(one: Process, total: int) -> str:
    parts = [
        f"{name} {kb * 1024 // PAGE}"
        for name, kb in (("rss", one.rss_kb), ("swap", one.swap_kb), ("tables", one.pgtables_kb))
    ]
    sum_of = " + ".join(parts)
    return f"{sum_of} + adj {one.adj} x {total // 1000} = {badness(one.weight, one.adj, total)}"


def _nobody(snapshot: Snapshot, processes: Sequence[Process]) -> str:
    reasons = sorted({snapshot.exempt(one) for one in processes})
    if not reasons:
        return "nobody is in it"
    return f"nobody may be chosen ({'; '.join(reasons)})"


def _notes(
    snapshot: Snapshot, chosen: Process, equal: Sequence[Process], processes: Sequence[Process]
) -> Iterator[str]:
    if chosen.is_dying:
        yield f"{chosen.pid} is being killed already: the kernel waits for it and chooses nobody"
    if len(equal) > 1:
        yield f"{len(equal)} are equal: the kernel takes the last in its list, mostly the youngest"
    largest = max(
        (one for one in processes if one.has_memory and one.pid != _INIT),
        key=lambda one: one.weight,
        default=chosen,
    )
    if largest.weight > chosen.weight:
        reason = snapshot.exempt(largest) or f"its oom_score_adj is {largest.adj}"
        yield (
            f"{largest.pid} ({largest.comm}) holds more, {largest.weight} pages, but stands behind:"
            f" {reason} (that of {chosen.pid}: {chosen.adj})"
        )
