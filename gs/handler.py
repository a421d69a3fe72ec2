"""A handler where no kernel starts it: its environment, its own memory cgroup, and its end.

As the kernel does it: the environment is the ABI's, the registrant's credentials, a session of its
own, and everything that it started ends with its time. The group is what finds them all again.
"""

from __future__ import annotations

import os
import time

from . import cgroup
from .paths import KernelFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Sequence

    from .cgroup import Hierarchy

#: As the kernel sets it for a handler.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The kernel's bound of a handler's memory unless vm.graceful_shutdown_handler_max_kb says another.
_MAX_KB = 65536
#: Nobody is chosen after it, but for the last of its own group, which -1000 would make one that
#: is full and cannot be emptied.
_SCORE_ADJ = "-999"
#: Seconds for killing processes that fork all the time.
_KILLING = 0.5


def environment(
    pid: int,
    victim: int,
    comm: str,
    uid: int,
    memcg: str | None,
    rss_kb: int,
    grace_ms: int,
    deadline_ns: int,
    seq: int,
) -> dict[str, str]:
    """What a handler gets; ``deadline_ns`` on CLOCK_BOOTTIME, ``memcg`` None out of any group."""
    return {
        "PATH": PATH,
        "HOME": "/",
        "GS_PID": str(pid),
        "GS_VICTIM_PID": str(victim),
        "GS_COMM": comm,
        "GS_UID": str(uid),
        "GS_CONSTRAINT": "none" if memcg is None else "memcg",
        "GS_MEMCG": memcg or "-",
        "GS_RSS_KB": str(rss_kb),
        "GS_GRACE_MS": str(grace_ms),
        "GS_DEADLINE_NS": str(deadline_ns),
        "GS_EVENT_SEQ": str(seq),
    }


def _path_prefix(run: str) -> str:
    """What the paths of the groups of handlers of a run begin with; ``run`` is that of its own."""
    place, name = os.path.split(run)
    return f"{place}/{cgroup.HANDLER_PREFIX}{name[len(cgroup.PREFIX) :]}."


def end_orphans(run: str) -> None:
    """End the handlers of a run whose watcher is dead, so that nobody waits for them."""
    prefix = _path_prefix(run)
    place = os.path.dirname(run)
    try:
        paths = [f"{place}/{name}" for name in os.listdir(place)]
    except OSError:
        return
    for path in paths:
        if path.startswith(prefix):
            _kill(path)
            cgroup.remove_when_empty(path)


def _kill(path: str) -> None:
    """End all processes of a group, those that fork meanwhile too. One that even this does not
    end, such as a reader of a dead server's file, must not keep us."""
    give_up = time.monotonic() + _KILLING
    while cgroup.kill_members(path) and time.monotonic() < give_up:
        pass


class Handler:
    """The processes of one handler. It is parked first, since what it is told names its number."""

    def __init__(self, argv: Sequence[str], where: Hierarchy, run: str, victim: int) -> None:
        self._argv = argv
        self._where = where
        self._path = f"{_path_prefix(run)}{victim}-{os.urandom(3).hex()}"
        self._max_kb = KernelFiles().read_sysctl("handler_max_kb") or _MAX_KB
        self.pid = 0
        self.status: int | None = None
        #: Readable when it was executed, or could not be.
        self.report = -1
        self._gate = -1

    def park(self) -> None:
        """Make its group, and in it a process that waits to become the handler. OSError."""
        self._make_group()
        waits, self._gate = os.pipe()
        self.report, tells = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._become(waits, tells)
        os.close(waits)
        os.close(tells)

    def go(self, environment: dict[str, str]) -> None:
        """Let it begin."""
        try:
            os.write(self._gate, os.fsencode("\0".join(f"{k}={v}" for k, v in environment.items())))
        except BrokenPipeError:
            pass  # it told why before it ended
        os.close(self._gate)
        self._gate = -1

    def why_not(self) -> int:
        """The errno with which it could not be executed, 0 if it was; for a readable ``report``."""
        return int(os.read(self.report, 16) or b"0")

    def has_ended(self) -> bool:
        """Whether the handler itself has; then ``status`` is there, as wait(2) has it."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if ended else None
        return self.status is not None

    def broke_bound(self) -> bool:
        """Whether the OOM killer killed any of its processes for what they took."""
        name = "memory.events" if self._where.version == 2 else "memory.oom_control"
        return bool(cgroup.read_table(f"{self._path}/{name}").get("oom_kill"))

    def is_empty(self) -> bool:
        """Whether nobody that it started runs any more."""
        return not cgroup.members(self._path)

    def kill(self) -> None:
        """End all of its processes; what is left after a while is tried again later."""
        _kill(self._path)
        self.has_ended()

    def remove(self) -> bool:
        """Remove its group, when it is empty; whether that is done."""
        for fd in (self.report, self._gate):
            if fd >= 0:
                os.close(fd)
        self.report = self._gate = -1
        return cgroup.remove(self._path)

    def _make_group(self) -> None:
        os.mkdir(self._path)
        cgroup.write_file(f"{self._path}/{self._where.limit_file}", str(self._max_kb * 1024))
        if self._where.version == 2:
            cgroup.write_file(f"{self._path}/memory.oom.group", "1")

    def _become(self, waits: int, tells: int) -> NoReturn:
        """In the child. What fails is told by its errno."""
        try:
            cgroup.write_file(f"{self._path}/cgroup.procs", "0")
            os.close(self._gate)  # the parent's end: else nobody would see that it has gone
            _be_nobody_special(self._max_kb)
            words = os.read(waits, 1 << 16)
            if not words:
                os._exit(0)  # who wanted it has gone
            variables = (word.partition(b"=") for word in words.split(b"\0"))
            os.execve(self._argv[0], list(self._argv), {key: value for key, _, value in variables})
        except OSError as error:
            os.write(tells, b"%d" % (error.errno or 1))
        finally:
            os._exit(127)


def _be_nobody_special(max_kb: int) -> None:
    """What a handler has of the kernel: a session, /, its streams, signals and bounds."""
    import resource

    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    _restore_signals()
    _redirect()
    resource.setrlimit(resource.RLIMIT_DATA, (max_kb * 1024, max_kb * 1024))
    try:
        cgroup.write_file("/proc/self/oom_score_adj", _SCORE_ADJ)
    except OSError:
        pass  # a user may not lower it
    if os.geteuid() != 0:
        from . import _sys

        _sys.forbid_new_privileges()


def _restore_signals() -> None:
    """None is ignored or blocked, whatever the guards do, or who called `gs run` did."""
    import _signal  # type: ignore[import-not-found]

    for number in _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _redirect() -> None:
    """What root's handler prints is in the kernel log; a user must not forge that."""
    null = os.open(os.devnull, os.O_RDWR)
    output = null
    if os.geteuid() == 0:
        try:
            output = os.open("/dev/kmsg", os.O_WRONLY)
        except OSError:
            pass  # a container has none
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
