"""What the guest tests are written with: memory cgroups, victims, the registry, the event stream.

Runs as root inside the guest, beside the kernel under test and nothing else. The harness itself
has oom_score_adj -1000 from the guest's init; each victim gets a value of its own.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import cgroups

BIN = Path("/gs/bin")
REGISTRY = Path("/proc/graceful_shutdown")
EVENTS = Path("/proc/graceful_shutdown_events")
FEATURES = Path("/proc/graceful_shutdown_features")
SYSCTL = Path("/proc/sys/vm")

MB = 1 << 20

#: Bytes that a victim's memory cgroup may hold: much for a handler, quickly filled.
LIMIT = 32 * MB

#: What a process that is no victim holds all the time, so that less has to be filled before the
#: machine is out of memory: emulated, filling 450 MB takes ten seconds.
BALLAST = "300M"


def _slower() -> float:
    words = Path("/proc/cmdline").read_text().split()
    return float(dict(word.partition("=")[::2] for word in words).get("gs.slower", "1"))


#: How many times longer than usual everything takes on this kernel: 1 but for a debug flavour,
#: whose own figure (kernels.toml) comes with the kernel's command line.
SLOWER = _slower()

#: Milliseconds of a grace where a registration names none, see conftest.
GRACE_MS = int(2000 * SLOWER)

#: Seconds from the start of a victim to its end that no test needs, emulated, on a busy machine.
#: All timeouts here are multiplied by SLOWER.
PATIENCE = 120.0

#: How much later than its deadline a grace may end, in milliseconds: emulated, or on a real CPU.
SLACK_MS = (500 if "hypervisor" in Path("/proc/cpuinfo").read_text() else 100) * SLOWER

#: How much earlier it may seem to end: its record is written when its time has begun.
EARLY_MS = SLACK_MS / 20


Event = dict[str, str]


def program(name: str) -> str:
    """The path of a test program."""
    return str(BIN / name)


# ---------------------------------------------------------------------------- the registry


def write_registry(text: str | bytes) -> int:
    """One write(2) on a file of its own; OSError with the kernel's errno."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    file = os.open(REGISTRY, os.O_WRONLY)
    try:
        return os.write(file, data)
    finally:
        os.close(file)


def register(pid: int, *handler: str | Path, **options: int | str) -> str:
    """Register, and give the line that was written; its words need no escapes."""
    words = [str(pid), *(f"{k}={v}" for k, v in options.items()), *map(str, handler)]
    line = " ".join(words)
    write_registry(line + "\n")
    return line


def registry() -> list[str]:
    """The lines that the registry shows."""
    return REGISTRY.read_text(errors="surrogateescape").splitlines()


def entry_of(pid: int) -> str | None:
    """The registry's line for a process."""
    return next((line for line in registry() if line.split(" ")[0] == str(pid)), None)


def features() -> dict[str, str]:
    """The features file."""
    return dict(line.partition("=")[::2] for line in FEATURES.read_text().splitlines())


@contextmanager
def sysctl(name: str, value: int) -> Iterator[None]:
    """vm.graceful_shutdown_<name> for the length of the block."""
    path = SYSCTL / f"graceful_shutdown_{name}"
    before = path.read_text()
    path.write_text(str(value))
    try:
        yield
    finally:
        path.write_text(before)


def wait_for_reserve() -> None:
    """Until all that is to be set aside is there; something must be registered."""
    full = int((SYSCTL / "graceful_shutdown_reserve_kb").read_text()) // 64 * 64
    wait_until(lambda: int(features()["reserve_kb"]) == full, timeout=90, why="not gathered again")


def launchers() -> int:
    """Handlers to be, parked until they are needed; known by their name."""
    found = 0
    for pid in pid_numbers():
        try:
            found += Path(f"/proc/{pid}/comm").read_text() == "gs_launcher\n"
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


# ---------------------------------------------------------------------------- the event stream


class Events:
    """A reader of the stream that begins behind what has happened before."""

    def __init__(self) -> None:
        self._file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
        self._rest = b""
        self.seen: list[Event] = []
        self._read()
        self.seen.clear()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def all(self, **wanted: object) -> list[Event]:
        """What happened since the start, of the events with these values."""
        self._read()
        return [e for e in self.seen if all(e.get(k) == str(v) for k, v in wanted.items())]

    def names(self, pid: int) -> list[str]:
        """The names of one process's events, in their order."""
        return [event["event"] for event in self.all(pid=pid)]

    def expect(self, pid: int, *names: str) -> None:
        """Exactly these events happened to the process, in this order."""
        seen = self.all(pid=pid)
        assert [event["event"] for event in seen] == list(names), f"what happened: {seen}"

    def wait(self, timeout: float = PATIENCE, **wanted: object) -> Event:
        """The first event with these values; AssertionError with everything seen if none comes."""
        deadline = time.monotonic() + timeout * SLOWER
        while not (found := self.all(**wanted)):
            left = deadline - time.monotonic()
            assert left > 0, f"no event {wanted} within {timeout * SLOWER} s; seen: {self.seen}"
            select.select([self._file], [], [], min(left, 1.0))
        return found[0]

    def _read(self) -> None:
        try:
            while block := os.read(self._file, 1 << 14):
                self._rest += block
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        self.seen += [parse_event(line.decode(errors="surrogateescape")) for line in lines]


def parse_event(line: str) -> Event:
    """One record; the values stay as they were written, escapes and all."""
    words = line.split(" ")
    record = dict(word.partition("=")[::2] for word in words)
    assert len(record) == len(words), f"a key twice, or not key=value: {line}"
    return record


def delay_ms(first: Event, last: Event) -> float:
    """Milliseconds from one event to another."""
    return (int(last["time_ns"]) - int(first["time_ns"])) / 1e6


# ---------------------------------------------------------------------------- memory cgroups


class Group:
    """A memory cgroup of its own, of the version in use, removed with all that is in it."""

    _number = 0

    def __init__(
        self,
        limit: int | None = LIMIT,
        swap: int = 0,
        parent: Group | None = None,
        called: str = "",
    ) -> None:
        Group._number += 1
        self.version = cgroups.in_use()
        above = parent.path if parent else self.version.root
        if parent and self.version is cgroups.V2:
            (above / "cgroup.subtree_control").write_text("+memory")
        self.path: Path = above / (called or f"gs-test-{Group._number}")
        self.path.mkdir()
        if limit is not None:
            (self.path / self.version.limit).write_text(str(limit))
            swap_limit = self.path / self.version.swap
            if swap_limit.exists():  # not without swap accounting
                swap_limit.write_text(str(self.version.swap_limit(limit, swap)))

    @property
    def name(self) -> str:
        """As `memcg=` shows it."""
        return "/" + str(self.path.relative_to(self.version.root))

    def add(self, pid: int) -> None:
        """Move a process in; 0 is the caller."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        """Who is in it."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def usage(self) -> int:
        """Bytes charged now."""
        return int((self.path / self.version.usage).read_text())

    def oom_kills(self) -> int:
        """The stock counter."""
        lines = (self.path / self.version.kills).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def remove(self) -> None:
        """Kill everything in it, wait until it is empty, remove it."""
        deadline = time.monotonic() + 20 * SLOWER
        while pids := self.pids():
            for pid in pids:
                kill(pid)
            reap_all()
            assert time.monotonic() < deadline, f"{self.name} does not become empty: {pids}"
            time.sleep(0.02)
        while True:
            try:
                self.path.rmdir()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


# ---------------------------------------------------------------------------- processes


class Victim:
    """A test program that waits for Enter before it takes memory."""

    def __init__(
        self,
        args: Sequence[str] = (),
        *,
        group: Group | None = None,
        adj: int = 0,
        name: str = "oom_condition_creator",
        options: Sequence[str] = (),
    ) -> None:
        def enter() -> None:
            Path("/proc/self/oom_score_adj").write_text(str(adj))
            if group is not None:
                group.add(0)

        self.group = group
        self.process = subprocess.Popen(
            [program(name), *options, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=enter,
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"pid {self.pid}\n".encode()

    def go(self) -> None:
        """Let it take memory."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its end: an exit status, or minus the signal that killed it."""
        return self.process.wait(timeout * SLOWER)

    def close(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class Scene:
    """Where an OOM is to happen: in memory cgroups of its own, or in the whole machine."""

    def __init__(self, kind: str, events: Events) -> None:
        self.kind = kind
        self.events = events
        self._cleanup: list[Callable[[], None]] = []

    @property
    def constraint(self) -> str:
        """What `constraint=` says of it."""
        return "memcg" if self.kind == "memcg" else "none"

    def group(
        self,
        limit: int | None = LIMIT,
        swap: int = 0,
        parent: Group | None = None,
        called: str = "",
    ) -> Group:
        """A memory cgroup for the length of the test."""
        group = Group(limit, swap, parent, called)
        self._cleanup.append(group.remove)
        return group

    def victim(
        self,
        *options: str,
        args: Sequence[str] = (),
        group: Group | None = None,
        name: str = "oom_condition_creator",
        adj: int | None = None,
    ) -> Victim:
        """A program that will be the victim of the next OOM of this kind."""
        if self.kind == "memcg" and group is None:
            group = self.group()
        if adj is None:
            adj = 0 if self.kind == "memcg" else 1000
        victim = Victim(args, group=group, adj=adj, name=name, options=options)
        self._cleanup.append(victim.close)
        return victim

    def bystander(self) -> Victim:
        """Somebody else who may be killed. Where a victim's memory is slow to come back the kernel
        looks for the next, and panics if all that are left are protected; what this one holds is
        enough until then."""
        return self.hold("8M", adj=0)

    def hold(self, size: str, group: Group | None = None, adj: int = -1000) -> Victim:
        """A process that holds so much memory and is no victim."""
        return self.victim(args=(size,), group=group, name="hold_memory", adj=adj)

    def kill_of(self, victim: Victim, timeout: float = PATIENCE) -> Event:
        """Let the victim take memory until it is killed; the record of the kill."""
        victim.go()
        assert victim.wait(timeout) == -signal.SIGKILL
        return self.events.wait(event="kill", pid=victim.pid, timeout=5)

    def close(self) -> None:
        """Undo everything, the last first."""
        for undo in reversed(self._cleanup):
            undo()


def tmpfs_file(scene: Scene, group: Group | None, size: int) -> Path:
    """A file whose memory is the group's, or only the machine's."""
    path = Path(f"/tmp/gs-test-{scene.kind}-{size}")
    enter = (lambda: group.add(0)) if group else None
    command = f"head -c {size} /dev/zero >{path}"
    subprocess.run(["sh", "-c", command], preexec_fn=enter, check=True)
    return path


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def reap_all() -> None:
    """Orphans of this process's children come to it only if it asks; take what there is."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def alive(pid: int) -> bool:
    """Whether the process runs: not gone, no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until(what: Callable[[], object], timeout: float = 10.0, why: str = "") -> None:
    """Until it holds; AssertionError if it does not in so many seconds."""
    deadline = time.monotonic() + timeout * SLOWER
    while not what():
        assert time.monotonic() < deadline, why or "it did not come true"
        time.sleep(0.01)


def pid_numbers() -> set[int]:
    """All process numbers in use, kernel threads too; cheap."""
    return {int(path.name) for path in Path("/proc").glob("[0-9]*")}


def processes(but: Set[int] = frozenset()) -> dict[int, str]:
    """Live user processes and their names; kernel threads and parked launchers are not ours."""
    found = {}
    for pid in pid_numbers() - but:
        folder = Path(f"/proc/{pid}")
        try:
            is_program = bool((folder / "exe").readlink())
            stat = (folder / "stat").read_text() if is_program else ""
        except OSError:
            continue
        if is_program and stat.rpartition(")")[2].split()[0] not in ("Z", "X"):
            found[pid] = stat.partition("(")[2].rpartition(")")[0]
    return found


def words_of(path: Path) -> dict[str, str]:
    """A result file of key=value lines."""
    return dict(line.partition("=")[::2] for line in path.read_text().splitlines())


# ---------------------------------------------------------------------------- the kernel log


class KernelLog:
    """/dev/kmsg from now on, or from the boot on."""

    def __init__(self, from_boot: bool = False) -> None:
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        if not from_boot:
            os.lseek(self._file, 0, os.SEEK_END)
        self.lines: list[str] = []

    @property
    def descriptor(self) -> int:
        """Readable when there is more."""
        return self._file

    def read(self) -> list[str]:
        """All messages since the start, without their prefixes."""
        while True:
            try:
                record = os.read(self._file, 8192).decode(errors="replace")
            except BlockingIOError:
                return self.lines
            except OSError as error:
                if error.errno != errno.EPIPE:  # the reader fell behind: some are overwritten
                    raise
                continue
            self.lines.append(record.partition(";")[2].splitlines()[0])

    def news(self) -> list[str]:
        """The messages since the last call, which are then forgotten."""
        lines = self.read()
        self.lines = []
        return lines

    def matching(self, text: str) -> list[str]:
        """The messages with this text."""
        return [line for line in self.read() if text in line]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
