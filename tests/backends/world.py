"""What the contract of the backends is tested with: real runs of the command, their events, and all
that they could leave behind. Works on this machine and inside a guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gs import cgroup
from gs.eventstream import EventStream, OomEvent

HERE = Path(__file__).resolve()
IN_GUEST = os.environ.get("GS_GUEST") == "1"
REPO = HERE.parents[2]
BIN = Path("/gs/bin") if IN_GUEST else REPO / "test_programs" / "bin"

#: Seconds that nothing needs; a guest is emulated.
PATIENCE = 120.0 if IN_GUEST else 20.0

#: What is written here is page cache, which in a guest's /tmp it is not.
ON_DISK = Path("/var/tmp")

LIMIT = "64M"
GUARDS = ("gs-keeper", "gs-watcher")


def program(name: str) -> str:
    """The path of a test program."""
    return str(BIN / name)


def victim(*options: str) -> tuple[str, ...]:
    """The command line of a program that takes memory at once, for ever."""
    return (program("oom_condition_creator"), "--now", *options)


def wait_until(condition: Callable[[], object], why: str, timeout: float = PATIENCE) -> None:
    """Until it holds; AssertionError with the reason if it does not come to that."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def state(pid: int) -> str:
    """As ps(1) shows it; "X" for a process that there is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    return state(pid) not in "XZ"


def named(*names: str) -> list[int]:
    """The processes of these names that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().rstrip("\n") in names and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def with_argument(word: str) -> list[int]:
    """The processes that run with this as their last argument."""
    end = b"\0" + word.encode() + b"\0"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(end):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def groups() -> list[str]:
    """Memory cgroups of ours."""
    where = cgroup.require()
    found = []
    for directory, names, _ in os.walk(where.own):
        ours = (cgroup.PREFIX, cgroup.HANDLER_PREFIX)
        found += [f"{directory}/{name}" for name in names if name.startswith(ours)]
    return found


class World:
    """One backend, and a directory of its own for what runs write down."""

    def __init__(self, backend: str, directory: Path) -> None:
        self.backend = backend
        self.directory = directory
        self.runs = directory / "run"
        self.environment = {**os.environ, "GS_RUN_DIRECTORY": str(self.runs)}
        os.environ["GS_RUN_DIRECTORY"] = str(self.runs)
        self._stream = EventStream(follow=False)
        self._stream.available()
        self._seen: list[OomEvent] = []
        self._started: list[subprocess.Popen[str]] = []

    @property
    def has_guards(self) -> bool:
        """Whether processes of ours stand beside the program."""
        return self.backend != "kernel"

    def command(self, *words: str) -> list[str]:
        """The command line of `gs`."""
        place = "/gs" if IN_GUEST else str(REPO)
        start = f"import sys; sys.path.insert(0, {place!r}); from gs.cli import main"
        return [sys.executable, "-S", "-c", f"{start}; sys.exit(main())", *words]

    def run_words(
        self, handler: str, *prog: str, limit: str | None = LIMIT, grace: str = "", scope: str = ""
    ) -> list[str]:
        """The words behind `gs`."""
        options = {"--on-oom": handler, "--memory-max": limit, "--grace": grace, "--scope": scope}
        words = [word for name, value in options.items() if value for word in (name, value)]
        return ["run", "--backend", self.backend, *words, "--", *prog]

    def start(
        self, handler: str, *prog: str, limit: str | None = LIMIT, grace: str = "", scope: str = ""
    ) -> subprocess.Popen[str]:
        """`gs run`, whose process the program becomes."""
        words = self.run_words(handler, *prog, limit=limit, grace=grace, scope=scope)
        process = subprocess.Popen(
            self.command(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, handler: str, *prog: str, **options: str) -> subprocess.Popen[str]:
        """The same to its end."""
        process = self.start(handler, *prog, **options)
        process.wait(PATIENCE)
        return process

    def gs(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Any command of `gs`, to its end."""
        return subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=60
        )

    def events(self, pid: int) -> list[OomEvent]:
        """What has happened to a process so far."""
        self._seen += self._stream.available()
        return [event for event in self._seen if event.pid == pid]

    def names(self, pid: int) -> list[str]:
        """The names of these events."""
        return [event.event for event in self.events(pid)]

    def wait_for(self, pid: int, event: str) -> OomEvent:
        """The first event of that name."""
        wait_until(lambda: event in self.names(pid), f"no {event}: {self.events(pid)}")
        return next(one for one in self.events(pid) if one.event == event)

    def expect(self, pid: int, *names: str) -> list[OomEvent]:
        """Exactly these happen to a process, in this order."""
        self.wait_for(pid, names[-1])
        assert self.names(pid) == list(names), self.events(pid)
        return self.events(pid)

    def guard(self, role: str) -> int:
        """The process number of the one guard of that role."""
        wait_until(lambda: len(named(role)) == 1, f"no {role}, or several: {named(role)}")
        return named(role)[0]

    def replaced(self, role: str, pid: int) -> None:
        """Wait until another has taken the place of a dead guard."""
        wait_until(lambda: [p for p in named(role) if p != pid], f"no new {role}")

    def group_of(self, pid: int) -> str:
        """The memory cgroup of a process: its directory."""
        where = cgroup.hierarchy(pid=str(pid))
        assert where is not None
        return where.own

    def usage_file(self) -> str:
        """That of the victim's group, as its handler finds it."""
        where = cgroup.require()
        return f"{where.mount}$GS_MEMCG/{where.usage_file}"

    def began(self, process: subprocess.Popen[str]) -> None:
        """Wait until the program runs in its group: nothing of ours has its number any more."""
        wait_until(
            lambda: (
                cgroup.PREFIX in self.group_of(process.pid)
                and b"gs.cli" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            ),
            "the program did not begin",
        )

    def nothing_is_left(self) -> None:
        """No group, no process, no file but the log."""
        if not self.has_guards:
            # Nothing stays with the program that could do this.
            cgroup.sweep_everywhere()
        wait_until(lambda: not groups(), f"groups are left: {groups()}")
        wait_until(lambda: not named(*GUARDS), f"guards are left: {named(*GUARDS)}")
        wait_until(lambda: not list(self.runs.glob("*run-*")), "a run file is left")

    def close(self) -> None:
        """End what still runs, whatever it is."""
        self._stream.close()
        for process in self._started:
            process.kill()
            process.communicate()
        for pid in [pid for path in groups() for pid in cgroup.members(path)]:
            os.kill(pid, signal.SIGKILL)
        del os.environ["GS_RUN_DIRECTORY"]
