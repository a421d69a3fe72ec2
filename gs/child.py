"""gs.run(): a protected program as a child of the calling process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from typing import Any, Mapping, Sequence

from . import cgroup, runfile, runner
from .errors import GsError, NotSupported, UsageError
from .eventstream import EventStream, OomEvent
from .record import Record

#: In the child: find this very package, and become `gs run`. Nothing of site is needed for that.
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); from gs.runner import main;"
    " sys.exit(main(sys.argv[3:], int(sys.argv[2])))"
)

_SIGKILL = 9
#: Seconds that a guard may take to write down what it has seen.
_WRITING = 5.0


class Completed(Record):
    """How a program ended.

    ``returncode`` is its exit status, or minus the signal that ended it, as in subprocess.
    ``outcome`` is what came of its handler if the OOM killer killed it: none, done, timeout,
    failed, or signal; "ended" if it was not killed so, "unknown" if this caller cannot read the
    events. ``events`` are those that name its process.
    """

    __slots__ = ("events", "outcome", "returncode")

    def __init__(self, returncode: int, outcome: str, events: Sequence[OomEvent]) -> None:
        self.returncode = returncode
        self.outcome = outcome
        self.events = tuple(events)

    @property
    def oom_killed(self) -> bool:
        """Whether the OOM killer killed it."""
        return self.outcome not in ("ended", "unknown")


def run(
    argv: Sequence[str | os.PathLike[str]],
    on_oom: str | Sequence[str | os.PathLike[str]] | None = None,
    *,
    grace: float | None = None,
    signal: int | None = None,
    scope: str | None = None,
    memory_max: int | str | None = None,
    swap_max: int | str | None = None,
    user: str | None = None,
    backend: str = "auto",
    freeze: bool = False,
    allow_unprotected: bool = False,
    timeout: float | None = None,
    **popen: Any,
) -> Completed:
    """Run a program, protected as by `gs run`, and wait for its end.

    ``on_oom`` is the handler: a path, or path and arguments; without it there must be a
    ``signal``, the number of one that the program gets when its grace begins. ``grace`` and
    ``timeout`` are in seconds (after ``timeout`` the program is killed, subprocess.TimeoutExpired
    is raised); sizes are bytes, or text such as "500M". ``scope`` is "process" or "tree" (the
    program's children too); None is tree where the backend knows it. With ``freeze`` the program is
    frozen while its handler runs, where the backend cgroup2 would only slow it down. Other keywords
    (stdin, stdout, stderr, cwd, env, …) go to subprocess.Popen; neither a shell nor a PIPE, which
    nobody would serve before the end, is taken.

    Raises what can be known before the program begins as GsError: ProgramNotFound, InvalidHandler,
    NotSupported, PermissionDenied, UsageError. Source of ``events``:
    /proc/graceful_shutdown_events, where the caller may read it, and /run/gs/events.
    """
    _check(argv, popen)
    words = _words(on_oom, grace, signal, scope, memory_max, swap_max, user, backend)
    if freeze:
        words.append("--freeze")
    if allow_unprotected:
        words.append("--allow-unprotected")
    stream = _open_stream()
    try:
        process = _start([*words, "--", *[os.fspath(word) for word in argv]], popen)
        with process:
            try:
                returncode = process.wait(timeout)
            except BaseException:
                process.kill()
                raise
        return _completed(process.pid, returncode, stream)
    finally:
        if stream is not None:
            stream.close()
        if memory_max is not None:
            cgroup.sweep_everywhere()


def _check(argv: object, popen: Mapping[str, Any]) -> None:
    """UsageError for what subprocess takes and this does not."""
    if isinstance(argv, (str, bytes, os.PathLike)):
        raise UsageError("argv", "is one word", 'give a sequence: ["prog", "argument"]')
    if popen.get("shell"):
        raise UsageError("shell=True", "argv is run as it stands", 'give ["sh", "-c", "..."]')
    for name in ("stdin", "stdout", "stderr"):
        if popen.get(name) == subprocess.PIPE:
            raise UsageError(f"{name}=PIPE", "nobody is at its other end", "use a file")


def _words(
    on_oom: str | Sequence[str | os.PathLike[str]] | None,
    grace: float | None,
    signal: int | None,
    scope: str | None,
    memory_max: int | str | None,
    swap_max: int | str | None,
    user: str | None,
    backend: str,
) -> list[str]:
    """The same request as options of `gs run`."""
    options: Mapping[str, object] = {
        "--on-oom": None if on_oom is None else _quoted(on_oom),
        "--grace": None if grace is None else f"{grace:f}s",
        "--signal": None if signal is None else int(signal),
        "--scope": scope,
        "--memory-max": memory_max,
        "--swap-max": swap_max,
        "--user": user,
        "--backend": backend,
    }
    return [f"{name}={value}" for name, value in options.items() if value is not None]


def _quoted(command: str | Sequence[str | os.PathLike[str]]) -> str:
    """A handler in the quoting that --on-oom reads."""
    words = [command] if isinstance(command, (str, os.PathLike)) else command
    return " ".join(shlex.quote(os.fspath(word)) for word in words)


def _start(words: list[str], popen: Mapping[str, Any]) -> subprocess.Popen[Any]:
    """Start `gs run` in a child; returns when the program itself has begun there."""
    if not sys.executable:
        raise NotSupported("cannot run a program", "this Python does not know its own executable")
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    readable, writable = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, place, str(writable), *words]
    keywords = {**popen, "pass_fds": (*popen.get("pass_fds", ()), writable)}
    try:
        try:
            process = subprocess.Popen(command, **keywords)
        finally:
            os.close(writable)
        with open(readable, "rb", closefd=False) as pipe:
            report = pipe.read()
    finally:
        os.close(readable)
    if report == runner.BEGINS:
        return process
    returncode = process.wait()
    if report:
        raise runner.unpack_error(report)
    raise GsError("the program did not begin", f"`gs run` itself ended with {returncode}")


def _open_stream() -> EventStream | None:
    """The events from now on, where they can be read."""
    try:
        stream = EventStream(follow=False)
    except GsError:
        return None
    stream.available()
    return stream


def _events_of(pid: int, stream: EventStream, killed: bool) -> list[OomEvent]:
    """What has happened to it. A guard writes a kill down only when it has seen it."""
    events: list[OomEvent] = []
    deadline = time.monotonic() + _WRITING
    while True:
        # In this order: who ends a run has written all of it before.
        over = not (killed and runfile.lasts(pid)) or time.monotonic() > deadline
        events += [event for event in stream.available() if event.pid == pid]
        if over or any(event.event == "kill" for event in events):
            return events
        time.sleep(0.01)


def _completed(pid: int, returncode: int, stream: EventStream | None) -> Completed:
    if stream is None:
        return Completed(returncode, "unknown", ())
    killed = returncode == -_SIGKILL
    events = _events_of(pid, stream, killed)
    outcome = "unknown" if killed and stream.left_out else "ended"
    for event in events:
        if event.event == "kill":
            outcome = str(event.get("outcome", "none"))
    return Completed(returncode, outcome, events)
