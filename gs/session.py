"""One grace: a victim was chosen; its handler runs until it ends or its time is over."""

from __future__ import annotations

import errno
import os
import time

from . import _sys, eventlog, victims
from .handler import Handler, environment
from .paths import KernelFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Mapping

    from .backends.guarded import WatchedGroup
    from .cgroup import Hierarchy
    from .procfile import Entry, Value
    from .victims import Process

    #: Waits for descriptors, at most until a time (ns on CLOCK_BOOTTIME); which are ready.
    Wait = Callable[[Iterable[int], int], "set[int]"]

#: As the kernel has it unless vm.graceful_shutdown_grace_ms says otherwise.
_GRACE_MS = 2000
#: Between two looks at the memory of a handler.
_LOOK_NS = 50_000_000
_KB_OF_PAGE = os.sysconf("SC_PAGESIZE") // 1024

#: The keys of a kill record in their order, where those of this machine are known by figures.
_KILL_KEYS = """
    outcome group points total_pages oom_score_adj mem_kb mem_max_kb mem_low_kb mem_swap_kb
    mem_swap_max_kb memsw_kb memsw_max_kb swappiness anon_kb file_kb shmem_kb swapents_kb
    pgtables_kb total_vm_kb hiwater_rss_kb hiwater_vm_kb locked_kb pinned_kb data_kb exec_kb
    stack_kb task_size_kb threads flags prio static_prio minflt majflt utime_ns stime_ns gtime_ns
    start_time_ns start_boottime_ns by_pid by_comm gfp order
""".split()  # noqa: SIM905 - a list of fifty quoted words reads badly


def now_ns() -> int:
    """The clock of all records and deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Context:
    """What all graces of one run have in common."""

    def __init__(self, entry: Entry, group: WatchedGroup, where: Hierarchy, log: str) -> None:
        self.entry = entry
        self.group = group
        self.where = where
        self._log = log
        self.memcg = group.path[len(where.mount) :] or "/"
        files = KernelFiles()
        self.grace_ms = entry.grace_ms or files.read_sysctl("grace_ms") or _GRACE_MS

    @property
    def handler_path(self) -> str | None:
        """The handler's program, None if there is only a signal."""
        return self.entry.argv[0] if self.entry.argv else None

    def record(self, event: str, victim: Process, **values: Value) -> int:
        """Write a record down; its number."""
        return self._record(event, victim.pid, victim.comm, victim.uid, values)

    def _record(
        self, event: str, pid: int | None, comm: str, uid: int | None, values: Mapping[str, Value]
    ) -> int:
        common: dict[str, Value] = {
            "pid": pid,
            "comm": comm,
            "uid": uid,
            "constraint": "memcg",
            "memcg": self.memcg,
        }
        return eventlog.append(self._log, event, {**common, **values})

    def record_kill(
        self, victim: Process, outcome: str, covered: bool, figures: dict[str, int | None]
    ) -> None:
        """That the kernel has killed it, with the figures of its group of a moment before."""
        known = {
            **figures,
            **victim.figures,
            "outcome": outcome,
            "group": 0,
            "points": victim.points,
            "total_pages": self.group.limit() // 1024 // _KB_OF_PAGE,
            "oom_score_adj": victim.adj,
        }
        handler = self.handler_path if covered else None
        self.record("kill", victim, **_kill_values(handler, known))

    def record_unforeseen_kill(self) -> None:
        """That the kernel was faster than we. Whom it has killed we know of one that is gone."""
        gone = victims.start_time(self.entry.pid) is None
        known = {**self.group.figures(), "outcome": "none", "group": 0}
        values = _kill_values(self.handler_path, known)
        self._record("kill", self.entry.pid if gone else None, "?", None, values)


def _kill_values(handler: str | None, known: Mapping[str, Value]) -> dict[str, Value]:
    """What is special to a kill record, in its order."""
    return {"handler": handler, **{key: known.get(key) for key in _KILL_KEYS}}


class Grace:
    """The grace of one victim. ``outcome`` is what its kill record will say."""

    def __init__(self, context: Context, victim: Process) -> None:
        self._context = context
        self.victim = victim
        self.outcome = "none"
        self.handler: Handler | None = None
        self._began = now_ns()
        self.deadline = self._began + context.grace_ms * 1_000_000

    def elapsed_us(self) -> int:
        """Since its begin."""
        return (now_ns() - self._began) // 1000

    def run(self, wait: Wait, victim_fd: int) -> None:
        """From its begin to the moment in which the kernel is to decide."""
        number = self._park()
        seq = self._record_begin()
        self._send_signal()
        if number:
            self._failed(number)
        elif self.handler is None:
            wait([victim_fd], self.deadline)
            self.outcome = "signal"
        else:
            self.handler.go(self._environment(seq))
            self._follow(self.handler, wait, victim_fd)

    def _park(self) -> int:
        """The errno of why there is no handler to start; 0 if there is, or none was asked for."""
        context = self._context
        if not context.entry.argv:
            return 0
        handler = Handler(context.entry.argv, context.where, context.group.path, self.victim.pid)
        try:
            handler.park()
        except OSError as error:
            handler.remove()
            return error.errno or errno.EIO
        self.handler = handler
        return 0

    def _record_begin(self) -> int:
        context, victim = self._context, self.victim
        return context.record(
            "grace",
            victim,
            handler=context.handler_path,
            handler_pid=self.handler.pid if self.handler else None,
            signal=context.entry.signal,
            grace_ms=context.grace_ms,
            rss_kb=victim.rss_kb,
            swap_kb=victim.swap_kb,
            total_pages=context.group.limit() // 1024 // _KB_OF_PAGE,
            points=victim.points,
            oom_score_adj=victim.adj,
        )

    def _send_signal(self) -> None:
        if self._context.entry.signal is not None and self.victim.alive():
            try:
                os.kill(self.victim.pid, self._context.entry.signal)
            except OSError:
                pass  # it has just ended

    def _environment(self, seq: int) -> dict[str, str]:
        context, victim = self._context, self.victim
        return environment(
            context.entry.pid,
            victim.pid,
            victim.comm,
            victim.uid,
            context.memcg,
            victim.rss_kb,
            context.grace_ms,
            self.deadline,
            seq,
        )

    def _follow(self, handler: Handler, wait: Wait, victim_fd: int) -> None:
        """Until the handler has ended, its victim has, or the time is over."""
        if handler.report in wait([handler.report], self.deadline):
            number = handler.why_not()
            if number:
                self._failed(number)
                return
        ends = _sys.pidfd_open(handler.pid)
        try:
            self._wait_for_end(handler, wait, [ends, victim_fd])
        finally:
            os.close(ends)
        if handler.broke_bound():
            self._failed(errno.ENOMEM)
        elif handler.has_ended():
            self._ended(handler)
        elif self.victim.alive():
            self._timed_out(handler)
        # Else the victim is gone: its handler may still finish, until the deadline.

    def _wait_for_end(self, handler: Handler, wait: Wait, fds: Iterable[int]) -> None:
        """Nothing tells of its memory, which is looked at now and then."""
        while now_ns() < self.deadline and not handler.broke_bound():
            if wait(fds, min(self.deadline, now_ns() + _LOOK_NS)):
                return

    def _ended(self, handler: Handler) -> None:
        self.outcome = "done"
        self._context.record(
            "done", self.victim, exit_status=handler.status, elapsed_us=self.elapsed_us()
        )

    def _timed_out(self, handler: Handler) -> None:
        handler.kill()
        self.outcome = "timeout"
        self._context.record("timeout", self.victim, elapsed_us=self.elapsed_us())

    def _failed(self, number: int) -> None:
        if self.handler is not None:
            self.handler.kill()
        self.outcome = "failed"
        self._context.record("failed", self.victim, errno=number)

    def may_end(self) -> bool:
        """Whether nothing of the handler is left, or its time is over: what is left ends then."""
        handler = self.handler
        if handler is None:
            return True
        if now_ns() >= self.deadline:
            handler.kill()
        handler.has_ended()
        return handler.is_empty() and handler.remove()
