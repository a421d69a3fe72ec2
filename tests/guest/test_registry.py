"""The registry: grammar, errors, atomic writes, round trip, lifetime, who may write."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    EVENTS,
    FEATURES,
    GRACE_MS,
    REGISTRY,
    Scene,
    Victim,
    entry_of,
    features,
    program,
    register,
    registry,
    sysctl,
    wait_until,
    words_of,
    write_registry,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "data"))

import registry_lines

EXE = program("do_nothing")


@pytest.fixture
def sleeper() -> Iterator[Victim]:
    """A process to register."""
    victim = Victim()
    yield victim
    victim.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the table's placeholders stand for."""
    folder = tmp_path_factory.mktemp("files")
    noexec = folder / "noexec"
    noexec.write_bytes(b"\x7fELF")
    noexec.chmod(0o644)
    return {"exe": EXE, "dir": str(folder), "noexec": str(noexec)}


def number(code: str) -> int:
    """ "EINVAL" → 22."""
    value: int = getattr(errno, code)
    return value


@pytest.mark.parametrize("case", registry_lines.GOOD, ids=lambda case: case[2])
def test_good_line(case: tuple[str, str, str], sleeper: Victim, files: dict[str, str]) -> None:
    text, shown, _ = (registry_lines.fill(t, pid=sleeper.pid, **files) for t in case)
    written = write_registry(text)
    assert written == len(text.encode(errors="surrogateescape"))
    assert registry() == [shown]


@pytest.mark.parametrize("case", registry_lines.BAD, ids=lambda case: case[2])
def test_bad_line(case: tuple[str, str, str], sleeper: Victim, files: dict[str, str]) -> None:
    """It gets its errno, and neither an empty registry nor an entry changes."""
    text, code, _ = (registry_lines.fill(t, pid=sleeper.pid, **files) for t in case)
    for before in ([], [f"{sleeper.pid} grace_ms=77 {EXE} before"]):
        if before:
            write_registry(before[0] + "\n")
        with pytest.raises(OSError) as caught:
            write_registry(text)
        assert errno.errorcode[caught.value.errno] == code
        assert registry() == before


def test_the_table_is_large_enough() -> None:
    assert len(registry_lines.BAD) >= 60


def test_echo_with_and_without_newline(sleeper: Victim) -> None:
    for echo in ("echo", "echo -n", "printf %s"):
        line = f'{echo} "{sleeper.pid} {EXE}" >> /proc/graceful_shutdown'
        subprocess.run(["bash", "-c", line], check=True)
        assert registry() == [f"{sleeper.pid} {EXE}"]
        write_registry(f"-{sleeper.pid}")
        assert registry() == []


def test_remove(sleeper: Victim) -> None:
    register(sleeper.pid, EXE)
    write_registry(f"-{sleeper.pid}\n")
    assert registry() == []
    with pytest.raises(ProcessLookupError):
        write_registry(f"-{sleeper.pid}\n")


def test_a_removed_entry_has_no_effect(scene: Scene) -> None:
    victim = scene.victim()
    register(victim.pid, EXE)
    write_registry(f"-{victim.pid}")
    kill = scene.kill_of(victim)
    assert kill["outcome"] == "none"
    scene.events.expect(victim.pid, "kill")


def test_registering_again_replaces(sleeper: Victim) -> None:
    register(sleeper.pid, EXE, "one", grace_ms=100)
    register(sleeper.pid, program("write_file"), "/tmp/two")
    assert registry() == [f"{sleeper.pid} {program('write_file')} /tmp/two"]


def test_round_trip() -> None:
    """``cat f > save; cat save > f`` changes nothing."""
    victims = [Victim() for _ in range(5)]
    try:
        for index, victim in enumerate(victims):
            write_registry(f"{victim.pid} grace_ms={index + 1} {EXE} a\\040b \\134 {index}\n")
        before = REGISTRY.read_text()
        assert len(before.splitlines()) == 5
        subprocess.run(
            ["sh", "-c", f"cat {REGISTRY} >/tmp/save; cat /tmp/save >{REGISTRY}"], check=True
        )
        assert REGISTRY.read_text() == before
        write_registry("".join(f"-{victim.pid}\n" for victim in victims))
        assert registry() == []
        write_registry("# saved\n\n" + before)
        assert REGISTRY.read_text() == before
    finally:
        for victim in victims:
            victim.close()


def test_one_write_is_atomic(sleeper: Victim) -> None:
    """Of a write with a removal, a replacement and a bad line, nothing happens."""
    other = Victim()
    try:
        register(sleeper.pid, EXE, "old")
        register(other.pid, EXE)
        before = registry()
        with pytest.raises(OSError) as caught:
            write_registry(f"-{other.pid}\n{sleeper.pid} {EXE} new\n{sleeper.pid} rubbish\n")
        assert caught.value.errno == errno.EINVAL
        assert registry() == before
    finally:
        other.close()


def test_a_line_split_over_two_writes_is_refused(sleeper: Victim) -> None:
    file = os.open(REGISTRY, os.O_WRONLY)
    try:
        assert os.write(file, f"{sleeper.pid} {EXE}".encode()) > 0
        with pytest.raises(OSError) as caught:
            os.write(file, b"-more\n")
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(file)
    file = os.open(REGISTRY, os.O_WRONLY)
    try:
        os.write(file, f"{sleeper.pid} {EXE} first\n".encode())
        with pytest.raises(OSError) as caught:
            os.write(file, f"{sleeper.pid} {EXE} sec".encode())
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(file)
    assert registry() == [f"{sleeper.pid} {EXE} first"]


def test_of_more_than_a_mebibyte_whole_lines_are_taken(sleeper: Victim) -> None:
    line = f"{sleeper.pid} {EXE} {'x' * 4000}\n".encode()
    text = line * (2 * (1 << 20) // len(line))
    file = os.open(REGISTRY, os.O_WRONLY)
    try:
        written = os.write(file, text)
    finally:
        os.close(file)
    assert (1 << 20) - len(line) < written <= 1 << 20
    assert written % len(line) == 0
    assert len(registry()) == 1


def test_max_entries(sleeper: Victim) -> None:
    other = Victim()
    try:
        with sysctl("max_entries", 1):
            register(sleeper.pid, EXE)
            with pytest.raises(OSError) as caught:
                register(other.pid, EXE)
            assert caught.value.errno == errno.ENOSPC
            assert registry() == [f"{sleeper.pid} {EXE}"]
            register(sleeper.pid, EXE, "again")  # replacing takes no more room
    finally:
        other.close()


def test_the_ceiling_of_a_grace_time(sleeper: Victim) -> None:
    with sysctl("max_grace_ms", 3000):
        with pytest.raises(OSError) as caught:
            register(sleeper.pid, EXE, grace_ms=3001)
        assert caught.value.errno == errno.EINVAL
        register(sleeper.pid, EXE, grace_ms=3000)


def test_an_entry_goes_with_its_process(sleeper: Victim) -> None:
    register(sleeper.pid, EXE)
    sleeper.close()
    wait_until(lambda: not registry(), timeout=2)


def test_a_zombie_cannot_be_registered() -> None:
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        register(zombie.pid, EXE)
    zombie.wait()


def test_a_kernel_thread_cannot_be_registered() -> None:
    with pytest.raises(ProcessLookupError):
        register(2, EXE)


def test_an_entry_survives_exec(scene: Scene, tmp_path: Path) -> None:
    """As `gs run` does it: register oneself, then become the program."""
    saved = tmp_path / "saved"
    script = (
        f'echo "$$ {program("write_file")} {saved}" >/proc/graceful_shutdown && '
        f"exec {program('oom_condition_creator')} --now"
    )
    group = scene.group() if scene.kind == "memcg" else None

    def enter() -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")
        if group:
            group.add(0)

    process = subprocess.Popen(["sh", "-c", script], preexec_fn=enter, stdout=subprocess.DEVNULL)
    assert process.wait(120) == -9
    scene.events.expect(process.pid, "grace", "done", "kill")
    assert words_of(saved)["GS_COMM"] == "oom_condition_c"


def test_a_child_does_not_inherit(scene: Scene) -> None:
    """The entry is the parent's; its child is killed without a grace."""
    script = (
        f'echo "$$ {EXE}" >/proc/graceful_shutdown; '
        f"(echo 1000 >/proc/self/oom_score_adj; exec {program('oom_condition_creator')} --now) & "
        "echo $!; wait $!; exit 0"
    )
    group = scene.group() if scene.kind == "memcg" else None
    process = subprocess.Popen(
        ["sh", "-c", script],
        preexec_fn=lambda: group.add(0) if group else None,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.stdout.read()
    assert process.wait(120) == 0
    kill = scene.events.wait(event="kill", pid=child, timeout=5)
    assert kill["outcome"] == "none"
    assert scene.events.names(process.pid) == []


def test_a_pid_number_that_is_used_again(scene: Scene) -> None:
    """The entry was of the process, not of the number."""
    first = Victim()
    register(first.pid, EXE)
    first.close()
    wait_until(lambda: entry_of(first.pid) is None)
    group = scene.group() if scene.kind == "memcg" else None

    def enter() -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")
        if group:
            group.add(0)

    again = subprocess.Popen(
        [program("reuse_pid"), str(first.pid), program("oom_condition_creator"), "--now"],
        preexec_fn=enter,
        stdout=subprocess.DEVNULL,
    )
    status = again.wait(120)
    kill = scene.events.wait(event="kill", pid=first.pid, timeout=5)
    assert status in (128 + 9, -9)  # the helper shares the cgroup; it is the smaller of the two
    assert kill["outcome"] == "none"
    scene.events.expect(first.pid, "kill")


def test_a_thread_stands_for_its_group() -> None:
    """Registered by the number of another thread (it waits for SIGTERM): shown as the process."""
    victim = Victim(options=["--exit-on-term", "--total", "1M", "--hold"])
    try:
        victim.go()
        tasks = Path(f"/proc/{victim.pid}/task")
        wait_until(lambda: len(list(tasks.iterdir())) > 1)
        register(max(int(path.name) for path in tasks.iterdir()), EXE)
        assert registry() == [f"{victim.pid} {EXE}"]
    finally:
        victim.close()


def as_user(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A shell line as nobody, who may enter the directories that it needs."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *options]
    return subprocess.run([*words, "bash", "-c", script], capture_output=True, text=True)


def test_a_user_may_not_register() -> None:
    done = as_user(f'echo "$$ {EXE}" >/proc/graceful_shutdown')
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    assert registry() == []


def test_a_service_with_an_ambient_capability(memcg: Scene) -> None:
    """As systemd's AmbientCapabilities= gives it: its handler runs, with its rights, not root's."""
    saved = Path("/tmp/gs-ambient/saved")
    saved.parent.mkdir(mode=0o777)
    saved.parent.chmod(0o777)
    victim = memcg.victim()
    done = as_user(
        f'echo "{victim.pid} {program("write_file")} {saved}" >/proc/graceful_shutdown',
        "--inh-caps=+sys_admin",
        "--ambient-caps=+sys_admin",
    )
    assert done.returncode == 0, done.stderr
    try:
        memcg.kill_of(victim)
        memcg.events.expect(victim.pid, "grace", "done", "kill")
        about = words_of(saved)
        assert about["uid"] == about["euid"] == "65534"
        # CAP_SYS_ADMIN, bit 21, and nothing else.
        assert {int(about[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
            1 << 21
        }
    finally:
        saved.unlink(missing_ok=True)
        saved.parent.rmdir()


def test_the_same_line_for_a_new_file(memcg: Scene, tmp_path: Path) -> None:
    """An upgrade replaces the handler's file; registering it again is enough."""
    handler, saved = tmp_path / "handler", tmp_path / "saved"
    victim = memcg.victim()
    for name in ("do_nothing", "write_file"):
        handler.unlink(missing_ok=True)
        handler.write_bytes(Path(program(name)).read_bytes())
        handler.chmod(0o755)
        register(victim.pid, handler, saved)
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["victim_alive"] == "1"


def test_a_user_sees_nobody_elses_entries(sleeper: Victim) -> None:
    register(sleeper.pid, EXE, "secret")
    assert as_user("cat /proc/graceful_shutdown").stdout == ""


def test_a_users_descriptor_does_not_become_roots(sleeper: Victim) -> None:
    """The opener's credentials decide, not the writer's: a setuid program must not be fooled."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setresuid(65534, 65534, 0)
            file = os.open(REGISTRY, os.O_WRONLY)
            os.setresuid(0, 0, 0)
            try:
                os.write(file, f"{sleeper.pid} {EXE}\n".encode())
            except PermissionError:
                status = 0
        finally:
            os._exit(status)
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert registry() == []


@pytest.mark.parametrize(
    ("unshare", "message"),
    [
        (["--mount"], "not supported"),
        (["--pid", "--fork", "--mount-proc"], "not supported"),
        (["--user", "--map-root-user"], "not permitted"),
    ],
    ids=["mount", "pid", "user"],
)
def test_other_namespaces(sleeper: Victim, unshare: list[str], message: str) -> None:
    number = "1" if "--pid" in unshare else str(sleeper.pid)
    line = f'echo "{number} {EXE}" >/proc/graceful_shutdown'
    done = subprocess.run(["unshare", *unshare, "bash", "-c", line], capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert registry() == []


def test_another_root_directory(sleeper: Victim, tmp_path: Path) -> None:
    """A chroot's path would mean another file."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            file = os.open(REGISTRY, os.O_WRONLY)
            os.chroot(tmp_path)
            try:
                os.write(file, f"{sleeper.pid} {EXE}\n".encode())
            except OSError as error:
                status = 0 if error.errno == errno.EOPNOTSUPP else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert registry() == []


def test_the_files() -> None:
    assert stat.S_IMODE(EVENTS.stat().st_mode) == 0o400
    assert stat.S_IMODE(FEATURES.stat().st_mode) == 0o444
    about = features()
    assert about["abi"] == "1"
    assert about["attachment"] in ("builtin", "module")
    assert "grace_ms" in about["keys"].split(",")
    assert {"grace", "done", "timeout", "failed", "averted", "gone", "kill"} <= set(
        about["events"].split(",")
    )
    builtin = about["attachment"] == "builtin"
    assert about["wait"] == ("fault-end" if builtin else "in-place")
    assert about["capabilities"] == ("fault-end,page-by-page,vmstat" if builtin else "")
    assert os.uname().release.startswith(about["series"] + ".")
    assert int(about["reserve_kb"]) >= 0


def test_an_unknown_key_is_refused(sleeper: Victim) -> None:
    """EINVAL, which is also how user space detects what a kernel supports."""
    assert features()["keys"] == "grace_ms,signal,scope"
    with pytest.raises(OSError) as caught:
        write_registry(f"{sleeper.pid} color=blue {EXE}\n")
    assert caught.value.errno == errno.EINVAL
    assert registry() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", 1),
        ("grace_ms", GRACE_MS),
        ("max_grace_ms", 30000),
        ("max_entries", 65536),
        ("max_running", 16),
        ("unprivileged", 0),
        ("handler_max_kb", 65536),
        ("reserve_kb", 8192),
    ],
)
def test_sysctl_defaults(name: str, value: int) -> None:
    assert Path(f"/proc/sys/vm/graceful_shutdown_{name}").read_text() == f"{value}\n"
