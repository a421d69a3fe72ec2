"""The test programs are built and run for real, with small totals."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

SOURCES = Path(__file__).parents[2] / "test_programs"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all programs, built from scratch and not in the tree."""
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no compiler here: apt-get install build-essential")
    folder = tmp_path_factory.mktemp("bin")
    done = subprocess.run(
        ["make", "-C", SOURCES, f"BIN={folder}", "-j2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the compiler has something to say"
    return folder


@pytest.fixture
def run(programs: Path) -> Run:
    """Run a program to its end."""

    def runner(
        name: str, *words: str | Path, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [programs / name, *words],
            **{"capture_output": True, "text": True, "timeout": 60, **options},
        )

    return runner


@pytest.fixture
def start(programs: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program; its whole process group is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def starter(name: str, *words: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [programs / name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def status(pid: int, key: str) -> str:
    """A line of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{key}:\s*(.*)$", text, re.M)
    assert found
    return found[1]


def wait_for(what: Callable[[], bool], timeout: float = 10.0) -> None:
    """Until it holds; AssertionError if it does not in so many seconds."""
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def rss_kb(pid: int) -> int:
    """Resident memory in kB."""
    return int(status(pid, "VmRSS").split()[0])


def until(what: Callable[[], object], timeout: float = 20) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def words_of(path: Path) -> dict[str, str]:
    """A result file."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


NAMES = sorted(path.stem for path in SOURCES.glob("*/*.c"))


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, run: Run) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name}")
    assert done.stderr == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "write_file"])
def test_called_wrongly(name: str, run: Run) -> None:
    """Too many words, or a word that is none: status 2 and the usage on stderr."""
    done = run(name, "--no-such-option", "b", "c", "d", stdin=subprocess.DEVNULL)
    assert done.returncode == 2, done
    assert "usage: " in done.stderr


def test_write_file_needs_a_path(run: Run) -> None:
    """It takes any further words, as they were registered."""
    assert run("write_file").returncode == 2


@pytest.mark.parametrize("name", NAMES)
def test_static_and_small(name: str, programs: Path) -> None:
    """It starts in any guest, and with few pages."""
    elf = (programs / name).read_bytes()
    assert elf[:4] == b"\x7fELF"
    assert b"/lib64/ld-linux" not in elf
    assert len(elf) < 1_500_000


def test_no_path_is_compiled_in() -> None:
    """Paths are arguments; only the kernel's own files have names here."""
    for source in SOURCES.glob("**/*.c"):
        text = re.sub(r"/\*.*?\*/|//[^\n]*|^#include.*$", "", source.read_text(), flags=re.S | re.M)
        for path in re.findall(r'"(/[^" ]+)"', text):
            owned = ("/proc/", "/dev/zero", "/dev/null", "/dev/kmsg")
            assert path.startswith(owned), f"{source.name}: {path}"


class TestOomConditionCreator:
    """The victim of most tests."""

    NAME = "oom_condition_creator"

    def test_waits_for_enter(self, start: Callable[..., subprocess.Popen[str]]) -> None:
        process = start(self.NAME, "--total", "20M", "--hold")
        assert process.stdout and process.stdin
        assert process.stdout.readline() == f"pid {process.pid}\n"
        assert process.stdout.readline() == "press Enter to begin\n"
        time.sleep(0.2)
        assert rss_kb(process.pid) < 4096
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"allocated {20 << 20}\n"
        assert 20 * 1024 <= rss_kb(process.pid) < 24 * 1024
        assert process.poll() is None

    @pytest.mark.parametrize("shape", ["touch", "read", "map"])
    @pytest.mark.parametrize("threads", ["1", "4"])
    def test_takes_the_total(self, run: Run, shape: str, threads: str) -> None:
        words = ["--now", "--total", "9M", "--block", "2M", "--shape", shape, "--threads", threads]
        done = run(self.NAME, *words)
        assert done.returncode == 0
        assert done.stdout.endswith(f"allocated {9 << 20}\n")

    def test_dies_at_end_of_file(self, run: Run) -> None:
        assert run(self.NAME, stdin=subprocess.DEVNULL).returncode == 1

    def test_pace(self, run: Run) -> None:
        began = time.monotonic()
        run(self.NAME, "--now", "--total", "3M", "--pace-ms", "100")
        assert time.monotonic() - began >= 0.3

    def test_starts_when_a_file_appears(
        self, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        process = start(self.NAME, "--start-file", tmp_path / "go", "--total", "1M")
        time.sleep(0.2)
        assert process.poll() is None
        (tmp_path / "go").touch()
        assert process.wait(20) == 0

    @pytest.mark.parametrize("how", ["file", "after"])
    def test_exits_by_itself(
        self, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, how: str
    ) -> None:
        leave = tmp_path / "leave"
        options = ["--exit-file", leave] if how == "file" else ["--exit-after-ms", "300"]
        process = start(self.NAME, "--now", "--total", "2M", "--hold", *options)
        time.sleep(0.1)
        assert process.poll() is None
        leave.touch()
        assert process.wait(20) == 0

    def test_exits_on_term(self, start: Callable[..., subprocess.Popen[str]]) -> None:
        process = start(self.NAME, "--now", "--total", "1M", "--hold", "--exit-on-term")
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)]
        process.terminate()
        assert process.wait(20) == 0

    @pytest.mark.parametrize(
        "words",
        [
            ["--total", "many"],
            ["--total", "-1"],
            ["--total", "1T"],
            ["--total", "99999999999G"],
            ["--block", "1"],
            ["--threads", "0"],
            ["--shape", "round"],
            ["more"],
        ],
        ids=" ".join,
    )
    def test_bad_options(self, run: Run, words: list[str]) -> None:
        assert run(self.NAME, "--now", *words).returncode == 2


@pytest.mark.parametrize("name", [f"/gs-unit-{os.getpid()}", f"sysv:{40000 + os.getpid() % 9999}"])
def test_shared_memory(
    name: str, start: Callable[..., subprocess.Popen[str]], run: Run, tmp_path: Path
) -> None:
    """What the victim wrote is what the handler saves, and it is gone when the victim ends well."""
    victim = start("oom_condition_creator_shm", "--lines", "300", "--total", "2M", name)
    assert victim.stdout and victim.stdin
    assert victim.stdout.readline() == f"pid {victim.pid}\n"
    saved = tmp_path / "saved"
    assert run("read_shm", name, saved).returncode == 0
    expected = "".join(f"line {i:08d} of gs shared memory\n" for i in range(300))
    assert saved.read_text() == expected
    victim.stdin.write("\n")
    victim.stdin.flush()
    assert victim.wait(20) == 0
    assert run("read_shm", name, saved).returncode == 1


def test_do_nothing(run: Run) -> None:
    done = run("do_nothing")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_write_file(run: Run, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    env = {**os.environ, "GS_VICTIM_PID": str(os.getpid()), "GS_COMM": "x"}
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert run("write_file", saved, "a b", env=env).returncode == 0
    about = words_of(saved)
    assert before < int(about["time_ns"]) < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert about["victim_alive"] == "1"
    assert about["argv[2]"] == "a b"
    assert about["GS_COMM"] == "x"
    assert about["uid"] == str(os.getuid())
    assert about["end"] == "1"


@pytest.mark.parametrize("victim", ["", "0", "4194304", "zombie"])
def test_write_file_without_a_live_victim(run: Run, tmp_path: Path, victim: str) -> None:
    saved = tmp_path / "saved"
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    pid = str(dead.pid) if victim == "zombie" else victim
    run("write_file", saved, env={**os.environ, "GS_VICTIM_PID": pid})
    assert words_of(saved)["victim_alive"] == "0"
    dead.wait()


def test_write_file_where_it_cannot(run: Run, tmp_path: Path) -> None:
    done = run("write_file", tmp_path / "no" / "file")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize(
    "content", ["", "one\n", "one\ntwo", "\n\n\n", "x" * 200_000 + "\nend\n"], ids=len
)
def test_copy_file(run: Run, tmp_path: Path, content: str) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_text(content)
    assert run("copy_file", source, copy).returncode == 0
    assert copy.read_text() == content


def test_copy_file_without_a_source(run: Run, tmp_path: Path) -> None:
    done = run("copy_file", tmp_path / "none", tmp_path / "copy")
    assert done.returncode == 1
    assert not (tmp_path / "copy").exists()


class TestPingServer:
    """A TCP connection and an ICMP echo."""

    def test_tcp(self, run: Run, tmp_path: Path) -> None:
        result = tmp_path / "result"
        with socket.create_server(("127.0.0.1", 0)) as server:
            accepted: list[object] = []
            thread = threading.Thread(target=lambda: accepted.append(server.accept()[1]))
            thread.start()
            port = str(server.getsockname()[1])
            done = run("ping_server", "--no-icmp", "--result", result, "127.0.0.1", port)
            thread.join(10)
        assert done.returncode == 0
        assert accepted
        assert words_of(result)["tcp"] == "ok"
        assert "icmp" not in words_of(result)

    def test_nobody_listens(self, run: Run, tmp_path: Path) -> None:
        result = tmp_path / "result"
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
            port = str(unused.getsockname()[1])
            done = run("ping_server", "--no-icmp", "--result", result, "127.0.0.1", port)
        assert done.returncode == 1
        assert words_of(result)["tcp"] == os.strerror(errno.ECONNREFUSED)

    @needs_root
    def test_icmp(self, run: Run, tmp_path: Path) -> None:
        result = tmp_path / "result"
        done = run("ping_server", "--no-tcp", "--result", result, "127.0.0.1")
        if words_of(result)["icmp"] == os.strerror(errno.EPERM):
            pytest.skip("raw sockets are forbidden here")
        assert done.returncode == 0, words_of(result)

    def test_names_are_refused(self, run: Run) -> None:
        assert run("ping_server", "localhost").returncode == 2


class TestMisbehaving:
    """They misbehave as they promise."""

    Start = Callable[..., "subprocess.Popen[str]"]

    @pytest.mark.parametrize("words", [[], ["--spin"]])
    def test_never_ends(self, start: Start, words: list[str]) -> None:
        process = start("never_ends", *words)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)
        assert status(process.pid, "State")[0] == ("R" if words else "S")

    def test_crash(self, run: Run) -> None:
        assert run("crash").returncode == -signal.SIGSEGV
        assert run("crash", "6").returncode == -signal.SIGABRT

    def test_alloc_endless(self, programs: Path, tmp_path: Path) -> None:
        """Under a limit on addresses it holds what it got, and has said how much."""
        out = tmp_path / "out"
        process = subprocess.Popen(
            ["sh", "-c", 'ulimit -v 60000; exec "$0" "$1"', programs / "alloc_endless", out]
        )
        try:
            until(lambda: out.exists() and int(out.read_text() or "0") >= 40 << 20)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_fork_endless(self, start: Start) -> None:
        """As many processes as the cap says, in more than one session."""
        process = start("fork_endless", "12")
        mark = str(process.args[0]) if isinstance(process.args, list) else ""

        def family() -> list[int]:
            found = []
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if str((folder / "exe").readlink()) == mark:
                        found.append(int(folder.name))
                except OSError:
                    continue
            return found

        try:
            until(lambda: len(family()) == 13)
            time.sleep(0.2)
            assert len(family()) == 13
            assert len({os.getsid(pid) for pid in family()}) > 1
        finally:
            for pid in family():
                os.kill(pid, signal.SIGKILL)

    def test_stop_self(self, start: Start) -> None:
        process = start("stop_self")
        until(lambda: status(process.pid, "State")[0] == "T")
        process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        until(lambda: status(process.pid, "State")[0] == "T")

    def test_ignore_signals(self, start: Start) -> None:
        process = start("ignore_signals")
        until(lambda: int(status(process.pid, "SigBlk"), 16) > 0xFFFF)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(number)
        time.sleep(0.2)
        assert process.poll() is None
        process.kill()
        assert process.wait(5) == -signal.SIGKILL

    def test_leave_daemon(self, run: Run, tmp_path: Path) -> None:
        pidfile = tmp_path / "pid"
        # Its output would keep the pipes open.
        done = run(
            "leave_daemon",
            pidfile,
            capture_output=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert done.returncode == 0
        daemon = int(pidfile.read_text())
        try:
            assert os.getsid(daemon) != os.getsid(0)
            # It has told us that the file is there, and is on its way to sleep.
            wait_for(lambda: status(daemon, "State")[0] == "S")
        finally:
            os.kill(daemon, signal.SIGKILL)


def test_free_memory(start: Callable[..., subprocess.Popen[str]], run: Run) -> None:
    holder = start("hold_memory", "5M")
    assert holder.stdout
    assert holder.stdout.readline() == f"pid {holder.pid}\n"
    assert rss_kb(holder.pid) >= 5 * 1024
    assert run("free_memory", str(holder.pid)).returncode == 0
    assert holder.wait(5) == -signal.SIGKILL
    assert run("free_memory", str(holder.pid)).returncode == 1


def test_free_little(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 300 * 1024)
    assert run("free_little", file).returncode == 0
    assert file.stat().st_size == 200 * 1024
    assert run("free_little", file, "150K").returncode == 0
    assert run("free_little", file, "150K").returncode == 1
    assert file.stat().st_size == 50 * 1024


def test_read_victim_mem(
    start: Callable[..., subprocess.Popen[str]], run: Run, tmp_path: Path
) -> None:
    victim = start("oom_condition_creator", "--now", "--total", "3M", "--hold")
    assert victim.stdout
    assert [victim.stdout.readline() for _ in range(2)][1] == f"allocated {3 << 20}\n"
    out = tmp_path / "out"
    env = {**os.environ, "GS_VICTIM_PID": str(victim.pid)}
    assert run("read_victim_mem", out, env=env).returncode == 0
    about = words_of(out)
    assert int(about["marked_pages"]) == 768
    assert int(about["bytes"]) >= 3 << 20
    assert about["read_errors"] == "0"
    victim.kill()
    victim.wait()
    assert run("read_victim_mem", out, str(victim.pid)).returncode == 1


@needs_root
@pytest.mark.skipif(
    not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="no ns_last_pid here"
)
def test_reuse_pid(run: Run, tmp_path: Path) -> None:
    first = subprocess.Popen(["true"])
    first.wait()
    done = run("reuse_pid", str(first.pid), "/bin/sh", "-c", "echo $$; exit 7")
    assert done.returncode == 7
    assert done.stdout == f"{first.pid}\n"


# ---- clocks


def answers(process: subprocess.Popen[str], count: int) -> list[list[int]]:
    """Ask a clock so many times."""
    assert process.stdin and process.stdout
    found = []
    for _ in range(count):
        process.stdin.write("\n")
        process.stdin.flush()
        found.append([int(word) for word in process.stdout.readline().split()])
    return found


def test_spawn_clock_times_what_it_starts(
    start: Callable[..., subprocess.Popen[str]], programs: Path
) -> None:
    """From before the start to after the end, by the clock of the event stream."""
    clock = start("spawn_clock", "/bin/sh", "-c", "sleep 0.2; exit 3")
    assert clock.stdout and clock.stdout.readline() == "ready\n"
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    first, second = answers(clock, 2)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for pid, begun, ended, wait_status, minor, _ in (first, second):
        assert pid > 0
        assert ended - begun >= 200_000_000
        assert os.WEXITSTATUS(wait_status) == 3
        assert minor > 0
    assert first[0] != second[0]
    assert before <= first[1] < first[2] <= second[1] < second[2] <= after


def test_spawn_clock_gives_what_a_handler_gets(
    start: Callable[..., subprocess.Popen[str]], programs: Path, tmp_path: Path
) -> None:
    """The test program write_file tells what it was given; guest tests check a handler's."""
    out = tmp_path / "out"
    clock = start(
        "spawn_clock", "GS_PID=7", "HOME=/", programs / "write_file", out, "GS_NOT=a variable"
    )
    assert clock.stdout and clock.stdout.readline() == "ready\n"
    ((pid, _, _, wait_status, _, _),) = answers(clock, 1)
    assert wait_status == 0
    told = words_of(out)
    assert told["pid"] == str(pid)
    assert told["GS_PID"] == "7"
    assert told["HOME"] == "/"
    assert "PATH" not in told
    assert told["cwd"] == "/"
    assert told["stdin"] == "/dev/null"
    assert told["stdout"] == told["stderr"]
    assert told["stdout"] in ("/dev/kmsg", "/dev/null")
    assert told["sid"] == told["pid"]
    assert told["argv[2]"] == "GS_NOT=a variable"


def test_spawn_clock_says_what_cannot_be_started(run: Run) -> None:
    done = run("spawn_clock", "/proc/none", input="\n")
    assert done.returncode == 1
    assert done.stdout == "ready\nerror: /proc/none: No such file or directory\n"


def test_accept_connections(
    start: Callable[..., subprocess.Popen[str]], run: Run, tmp_path: Path
) -> None:
    """Always there, also for the hundredth."""
    server = start("accept_connections", "0")
    assert server.stdout
    port = server.stdout.readline().removeprefix("port ").strip()
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as connection:
            assert connection.recv(1) == b""
    assert run("ping_server", "--no-icmp", "127.0.0.1", port).returncode == 0


def test_kill_clock_where_nothing_kills(run: Run, tmp_path: Path) -> None:
    """The child cannot enter what is no cgroup: it was not killed, and that is no figure."""
    done = run("kill_clock", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "cgroup.procs" in done.stderr


def test_registry_clock_makes_processes_and_ends_them(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """Each a thread group of its own that shares no memory with the clock."""
    clock = start("registry_clock", "50", "/proc/none")
    assert clock.stdin and clock.stdout
    assert clock.stdout.readline() == "ready\n"
    members = group_members(clock.pid)
    assert len(members) == 52  # and the clock, and the owner of the memory
    assert all(status(pid, "Tgid") == str(pid) for pid in members)
    clock.stdin.close()
    assert clock.wait(20) == 0
    until(lambda: not group_members(clock.pid))


def group_members(leader: int) -> list[int]:
    """Processes of a process group that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state not in "ZX":
            found.append(int(path.parent.name))
    return found
