"""The two guards of a run: processes beside the program, outside of its memory cgroup.

The *watcher* works; the *keeper* only waits for its end. Of one that dies the other starts a new
one. Where the watcher dies the group is disarmed at once, so that nobody stands still for nothing,
and armed again by the next. Both end when the run is over, which its removed file says.
"""

from __future__ import annotations

import os
import select
import time

from . import _sys, cgroup
from .errors import NotSupported
from .handler import end_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

    from .backends.guarded import WatchedGroup
    from .cgroup import Hierarchy
    from .runfile import RunFile

_READY = b"ready"
#: Not even with the program: they end when it has.
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU")
#: Seconds that a new watcher must live, or the next waits; and at most so long.
_HEALTHY, _LONGEST_PAUSE = 1.0, 60.0


def occupy_streams() -> None:
    """Let nothing of ours become one of the first three descriptors where these are closed: the
    guards put /dev/null there. It is closed again by the exec, so that PROG finds them as ever."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def start(run: RunFile, group: WatchedGroup, where: Hierarchy) -> None:
    """Start the guards of this process; comes back when the group is armed. Raises GsError."""
    try:
        _start(run, group, where)
    except OSError as error:  # no pidfd before Linux 5.3, or no more processes
        raise NotSupported("the guards could not be started", str(error.strerror)) from None


def _start(run: RunFile, group: WatchedGroup, where: Hierarchy) -> None:
    target_fd = _sys.pidfd_open(run.entry.pid)
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        _leave_two(lambda: Keeper(run, group, where, target_fd).run(writable), readable)
    os.close(writable)
    os.close(target_fd)
    os.waitpid(child, 0)
    report = b""
    while True:
        data = os.read(readable, 4096)
        if not data:
            break
        report += data
    os.close(readable)
    if report != _READY:
        why = os.fsdecode(report) or "they ended at once"
        raise NotSupported("the guards could not be started", why)


def _leave_two(keep: Callable[[], None], unused: int) -> NoReturn:
    """In a child: become a session, and go on as its child, which is nobody's."""
    os.close(unused)
    os.setsid()
    if os.fork():
        os._exit(0)
    _run_as("gs-keeper", keep)


def _run_as(name: str, function: Callable[[], None]) -> NoReturn:
    """Run a guard in this process, and end it whatever comes."""
    try:
        cgroup.write_file("/proc/self/comm", name)
        function()
        os._exit(0)
    except BaseException as error:
        _log(f"{name} {os.getpid()}: {type(error).__name__}: {error}")
    finally:
        os._exit(1)


def _log(text: str) -> None:
    """To the kernel log, which is all there is that always works; a user may not."""
    try:
        with open("/dev/kmsg", "w", encoding="utf-8", errors="replace") as file:
            file.write(f"gs: {text}"[:900])
    except OSError:
        pass


def _settle_down(keep: set[int]) -> None:
    """Hold nothing that is somebody else's: no descriptor, no directory, no signal; and live on."""
    import _signal  # type: ignore[import-not-found]

    for name in _IGNORED:
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # that of the listing itself
    try:
        cgroup.write_file("/proc/self/oom_score_adj", "-1000")
    except OSError:
        pass  # a user may not lower it


class Keeper:
    """Waits for the watcher's end, and replaces it."""

    def __init__(self, run: RunFile, group: WatchedGroup, where: Hierarchy, target_fd: int) -> None:
        self._run = run
        self._group = group
        self._where = where
        self._target_fd = target_fd

    def run(self, ready: int) -> None:
        """The first keeper: starts the first watcher, which writes to ``ready``."""
        _settle_down({self._run.fd, self._target_fd, ready})
        watcher = self._start_watcher(ready)
        os.close(ready)
        self._keep(watcher)

    def _keep(self, watcher: int) -> None:
        """As long as the run lasts: wait for the end of this watcher, then of the next."""
        pause = 0.0
        while True:
            began = time.monotonic()
            _wait_for(watcher)
            os.close(watcher)
            _reap()
            if not self._run.exists():
                return
            self._group.release()
            end_orphans(self._group.path)
            self._tell("the watcher has died, a new one is started")
            pause = (
                0.0 if time.monotonic() - began > _HEALTHY else min(pause * 2 + 0.1, _LONGEST_PAUSE)
            )
            time.sleep(pause)
            watcher = self._start_watcher()

    def _start_watcher(self, ready: int = -1) -> int:
        """A descriptor of a new watcher, which is a child of this process."""
        keeper = os.getpid()
        pid = os.fork()
        if not pid:
            _run_as("gs-watcher", lambda: self._watch(keeper, ready))
        return _sys.pidfd_open(pid)

    def _watch(self, keeper: int, ready: int) -> None:
        """In the watcher."""
        keeper_fd = _sys.pidfd_open(keeper)
        keep = {self._run.fd, self._target_fd, keeper_fd}
        _settle_down(keep | {ready})
        try:
            self._group.arm()
        except OSError as error:
            self._run.remove()
            if ready >= 0:
                os.write(ready, os.fsencode(f"{self._group.path}: {error.strerror}"))
            return
        if ready >= 0:
            os.write(ready, _READY)
            os.close(ready)
        # Only now: the program is waiting until here.
        from .session import Context
        from .watcher import Watcher

        context = Context(self._run.entry, self._group, self._where, self._run.directory)
        Watcher(context, keeper_fd, self._replace_keeper, self._target_fd).run()
        self._end()

    def _replace_keeper(self) -> int:
        """In the watcher, whose keeper is dead: start a new one, and give its descriptor."""
        _reap()
        self._tell("the keeper has died, a new one is started")
        watcher = os.getpid()
        pid = os.fork()
        if not pid:
            _run_as("gs-keeper", lambda: self._keep_another(watcher))
        return _sys.pidfd_open(pid)

    def _keep_another(self, watcher: int) -> None:
        watcher_fd = _sys.pidfd_open(watcher)
        _settle_down({self._run.fd, self._target_fd, watcher_fd})
        self._keep(watcher_fd)

    def _end(self) -> None:
        """Nobody is left: remove what was made for the run."""
        # Should somebody be in it all the same, nobody will be there to let him go on.
        self._group.release()
        cgroup.remove_when_empty(self._group.path)
        self._run.remove()

    def _tell(self, what: str) -> None:
        _log(f"{what}, for process {self._run.entry.pid} in {self._group.path}")


def _wait_for(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()


def _reap() -> None:
    """Whoever of our children has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
