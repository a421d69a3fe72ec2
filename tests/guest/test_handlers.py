"""Handlers that do their work: each runs, ends and has its result before the kill."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import (
    GRACE_MS,
    Event,
    KernelLog,
    Scene,
    Victim,
    entry_of,
    program,
    register,
    words_of,
)


def assert_done_before_kill(scene: Scene, victim: Victim, kill: Event) -> Event:
    """The three records in their order, and only they; gives `grace`."""
    scene.events.expect(victim.pid, "grace", "done", "kill")
    grace, done, _ = scene.events.all(pid=victim.pid)
    assert done["exit_status"] == "0"
    assert kill["outcome"] == "done"
    assert int(grace["time_ns"]) < int(done["time_ns"]) <= int(kill["time_ns"])
    assert {e["constraint"] for e in (grace, done, kill)} == {scene.constraint}
    expected = victim.group.name if victim.group and scene.kind == "memcg" else "-"
    assert {e["memcg"] for e in (grace, done, kill)} == {expected}
    return grace


def test_do_nothing(scene: Scene, kernel_log: KernelLog) -> None:
    victim = scene.victim()
    register(victim.pid, program("do_nothing"))
    kill = scene.kill_of(victim)
    grace = assert_done_before_kill(scene, victim, kill)
    assert grace["handler"] == program("do_nothing")
    assert grace["comm"] == "oom_condition_c"
    assert grace["grace_ms"] == str(GRACE_MS)
    assert len(kernel_log.matching(f"Killed process {victim.pid} ")) == 1


def test_write_file(scene: Scene, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    victim = scene.victim()
    register(victim.pid, program("write_file"), saved, "two", "three", grace_ms=5000)
    kill = scene.kill_of(victim)
    grace = assert_done_before_kill(scene, victim, kill)
    about = words_of(saved)
    assert about["end"] == "1" and about["victim_alive"] == "1"
    assert int(grace["time_ns"]) < int(about["time_ns"]) < int(kill["time_ns"])
    assert [about[f"argv[{i}]"] for i in range(4)] == [
        program("write_file"),
        str(saved),
        "two",
        "three",
    ]
    assert about["pid"] == grace["handler_pid"]


def test_what_a_handler_gets(scene: Scene, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    victim = scene.victim()
    register(victim.pid, program("write_file"), saved, grace_ms=5000)
    scene.kill_of(victim)
    grace = scene.events.all(pid=victim.pid, event="grace")[0]
    about = words_of(saved)
    # Its surroundings.
    assert about["cwd"] == "/"
    assert about["stdin"] == "/dev/null"
    assert about["stdout"] == about["stderr"] == "/dev/kmsg"
    assert about["HOME"] == "/" and about["PATH"]
    # Its identity.
    assert about["uid"] == about["euid"] == about["gid"] == about["egid"] == "0"
    assert about["sid"] == about["pgid"] == about["pid"]
    assert about["oom_score_adj"] == "-1000"
    assert about["no_new_privs"] == "0"
    assert about["cgroup"].endswith(":/")
    # What it is told.
    assert about["GS_PID"] == about["GS_VICTIM_PID"] == str(victim.pid)
    assert about["GS_COMM"] == "oom_condition_c"
    assert about["GS_UID"] == "0"
    assert about["GS_CONSTRAINT"] == scene.constraint
    assert about["GS_MEMCG"] == grace["memcg"]
    assert about["GS_RSS_KB"] == grace["rss_kb"]
    assert about["GS_GRACE_MS"] == "5000"
    assert about["GS_EVENT_SEQ"] == grace["seq"]
    left_ms = (int(about["GS_DEADLINE_NS"]) - int(grace["time_ns"])) / 1e6
    assert 4500 < left_ms <= 5001


def test_its_output_is_in_the_kernel_log(scene: Scene, kernel_log: KernelLog) -> None:
    victim = scene.victim()
    register(victim.pid, program("write_file"), "/no/such/directory/file")
    scene.kill_of(victim)
    assert kernel_log.matching("write_file: /no/such/directory/file: No such file or directory")
    done = scene.events.all(pid=victim.pid, event="done")[0]
    assert done["exit_status"] == str(1 << 8)


def test_copy_file(scene: Scene, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_text("".join(f"line {i} of what must not be lost\n" for i in range(5000)) + "end")
    victim = scene.victim()
    register(victim.pid, program("copy_file"), source, copy, grace_ms=10000)
    kill = scene.kill_of(victim)
    assert_done_before_kill(scene, victim, kill)
    assert copy.read_bytes() == source.read_bytes()


@contextmanager
def server() -> Iterator[tuple[int, list[str]]]:
    """A TCP server of ours: its port, and who connected."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    guests: list[str] = []
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection, address = listener.accept()
            except TimeoutError:
                continue
            guests.append(address[0])
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], guests
    finally:
        over.set()
        thread.join()
        listener.close()


def test_ping_server(scene: Scene, tmp_path: Path) -> None:
    result = tmp_path / "result"
    victim = scene.victim()
    with server() as (port, guests):
        register(
            victim.pid,
            program("ping_server"),
            "--result",
            result,
            "--timeout-ms",
            "8000",
            "127.0.0.1",
            str(port),
            grace_ms=20000,
        )
        kill = scene.kill_of(victim)
    assert_done_before_kill(scene, victim, kill)
    about = words_of(result)
    assert about["tcp"] == "ok" and about["icmp"] == "ok"
    assert guests == ["127.0.0.1"]


@pytest.mark.parametrize("name", ["/gs-test", "sysv:4711"])
def test_read_shm(scene: Scene, tmp_path: Path, name: str) -> None:
    saved = tmp_path / "saved"
    lines = 2000
    victim = scene.victim("--lines", str(lines), args=(name,), name="oom_condition_creator_shm")
    register(victim.pid, program("read_shm"), name, saved, grace_ms=10000)
    try:
        kill = scene.kill_of(victim)
        assert_done_before_kill(scene, victim, kill)
        expected = "".join(f"line {i:08d} of gs shared memory\n" for i in range(lines))
        assert saved.read_text().rstrip("\0") == expected
    finally:
        remove_shm(name)


def remove_shm(name: str) -> None:
    """A victim that was killed leaves its shared memory behind."""
    if name.startswith("/"):
        Path("/dev/shm" + name).unlink(missing_ok=True)
        return
    from ctypes import CDLL

    libc = CDLL(None)
    libc.shmctl(libc.shmget(int(name[5:]), 0, 0), 0, None)


def test_a_process_that_is_not_registered(scene: Scene, kernel_log: KernelLog) -> None:
    victim = scene.victim()
    assert entry_of(victim.pid) is None
    kill = scene.kill_of(victim)
    scene.events.expect(victim.pid, "kill")
    assert kill["outcome"] == "none" and kill["handler"] == "-"
    assert len(kernel_log.matching(f"Killed process {victim.pid} ")) == 1


def test_the_stock_counters_count_a_kill_once(memcg: Scene) -> None:
    def oom_kills() -> int:
        lines = Path("/proc/vmstat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    group = memcg.group()
    victim = memcg.victim(group=group)
    register(victim.pid, program("do_nothing"))
    before = oom_kills()
    memcg.kill_of(victim)
    assert oom_kills() - before == 1
    assert group.oom_kills() == 1


def test_a_shell_script_as_handler(scene: Scene, tmp_path: Path) -> None:
    script, saved = tmp_path / "handler.sh", tmp_path / "saved"
    script.write_text(f'#!/bin/sh\necho "saved $GS_COMM" >{saved}\n')
    script.chmod(0o755)
    victim = scene.victim()
    register(victim.pid, script, grace_ms=20000)
    kill = scene.kill_of(victim)
    assert_done_before_kill(scene, victim, kill)
    assert saved.read_text() == "saved oom_condition_c\n"


def test_the_asker_may_stand_in_a_system_call(scene: Scene, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    victim = scene.victim("--shape", "read")
    register(victim.pid, program("write_file"), saved, grace_ms=5000)
    kill = scene.kill_of(victim)
    assert_done_before_kill(scene, victim, kill)
    assert words_of(saved)["victim_alive"] == "1"


def test_the_seeds_own_shell_line(scene: Scene, tmp_path: Path) -> None:
    """``echo "<pid> <path>" >> /proc/graceful_shutdown``, a path without arguments."""
    import subprocess

    saved, script = tmp_path / "saved", tmp_path / "handler"
    script.write_text(f"#!/bin/sh\n{program('write_file')} {saved}\n")
    script.chmod(0o755)
    victim = scene.victim()
    line = f'echo "{victim.pid} {script}" >> /proc/graceful_shutdown'
    subprocess.run(["sh", "-c", line], check=True)
    assert entry_of(victim.pid) == f"{victim.pid} {script}"
    victim.go()
    assert victim.wait() == -signal.SIGKILL
    assert words_of(saved)["victim_alive"] == "1"
