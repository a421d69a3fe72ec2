"""Registration by users who are not root, behind vm.graceful_shutdown_unprivileged."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import (
    REGISTRY,
    Scene,
    Victim,
    program,
    register,
    registry,
    sysctl,
    words_of,
    write_registry,
)
from marks import needs_fault_end

USER = 65534
OTHER = 1234

EXE = program("do_nothing")


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with sysctl("unprivileged", 1):
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may write to, on a file system with setuid programs."""
    path = Path("/run/gs-users")
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def become(uid: int) -> None:
    """For the rest of this process; it stays readable by its owner, as after a login."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE


def in_child(work: Callable[[], object], uid: int | None = USER) -> int:
    """Run it in a child as that user: 0, or the errno of what it raised."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            if uid is not None:
                become(uid)
            work()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def as_user(line: str, uid: int = USER) -> int:
    """One write to the registry as that user: 0 or its errno."""
    return in_child(lambda: write_registry(line + "\n"), uid)


def users_victim(scene: Scene, exe: str = program("oom_condition_creator")) -> Victim:
    """A process of the user that will be the next victim."""
    return scene.victim(str(USER), exe, name="run_as")


def go_and_exec(victim: Victim) -> None:
    """From --wait to the program behind it, which says its number once more."""
    victim.go()
    assert victim.process.stdout is not None
    assert victim.process.stdout.readline() == f"pid {victim.pid}\n".encode()


def test_it_is_off_by_default() -> None:
    def work() -> None:
        write_registry(f"{os.getpid()} {EXE}\n")

    assert in_child(work) == 0
    with sysctl("unprivileged", 0):
        assert in_child(work) == errno.EPERM


def test_a_users_own_process(memcg: Scene, place: Path) -> None:
    """The handler runs as the user, tells nobody's kernel log, and can gain no rights."""
    saved = place / "saved"
    victim = users_victim(memcg)
    line = f"{victim.pid} {program('write_file')} {saved}"
    assert as_user(line) == 0
    assert registry() == [f"# uid={USER} {line}"]
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    about = words_of(saved)
    assert about["uid"] == about["euid"] == about["gid"] == str(USER)
    assert about["no_new_privs"] == "1"
    assert about["stdin"] == about["stdout"] == about["stderr"] == "/dev/null"
    assert {int(about[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert about["victim_alive"] == "1"


@needs_fault_end
def test_a_users_signal(memcg: Scene, place: Path) -> None:
    saved = place / "saved"
    victim = memcg.victim(
        *(str(USER), program("oom_condition_creator")),
        *("--block", "64M", "--save-on-term", str(saved)),
        name="run_as",
    )
    assert as_user(f"{victim.pid} signal=15 grace_ms=8000") == 0
    victim.go()
    assert victim.wait() == 0
    assert words_of(saved)["end"] == "1"


def test_nobody_elses_process(memcg: Scene) -> None:
    roots, users = memcg.victim(), users_victim(memcg)
    for pid in (roots.pid, 1, os.getpid()):
        assert as_user(f"{pid} {EXE}") in (errno.EPERM, errno.ESRCH)
    assert as_user(f"{users.pid} {EXE}", uid=OTHER) == errno.EPERM
    assert registry() == []


def test_one_users_entries_are_not_anothers(memcg: Scene) -> None:
    victim = users_victim(memcg)
    assert as_user(f"{victim.pid} {EXE}") == 0
    assert as_user(f"-{victim.pid}", uid=OTHER) == errno.EPERM

    def see(expected: str) -> None:
        if REGISTRY.read_text() != expected:
            raise OSError(errno.EBADMSG, "not what it should be")

    assert in_child(lambda: see(""), OTHER) == 0
    assert in_child(lambda: see(f"{victim.pid} {EXE}\n"), USER) == 0
    assert as_user(f"-{victim.pid}") == 0
    assert registry() == []


def test_a_user_does_not_undo_what_root_did(memcg: Scene) -> None:
    victim = users_victim(memcg)
    line = register(victim.pid, EXE, "roots")
    assert as_user(f"-{victim.pid}") == errno.EPERM
    assert as_user(f"{victim.pid} {EXE}") == errno.EPERM
    assert as_user(line) == errno.EPERM
    assert registry() == [line]


def test_restoring_a_saved_registry_raises_nobody(memcg: Scene, place: Path) -> None:
    """Root writes back what it read: the user's entry stays the user's."""
    saved = place / "saved"
    victim = users_victim(memcg)
    assert as_user(f"{victim.pid} {program('write_file')} {saved}") == 0
    write_registry(REGISTRY.read_text())
    write_registry(f"{victim.pid} {program('write_file')} {saved}\n")
    memcg.kill_of(victim)
    assert words_of(saved)["euid"] == str(USER)


def test_the_openers_credentials_count(memcg: Scene) -> None:
    """A descriptor passed to root makes nobody root; one passed from root is root's."""
    roots = memcg.victim()

    def fooled() -> None:
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, 0)
        file = os.open(REGISTRY, os.O_WRONLY)
        os.setresuid(0, 0, 0)
        for pid in (roots.pid, os.getpid()):  # the second is the writer's very own process
            try:
                os.write(file, f"{pid} {EXE}\n".encode())
            except PermissionError:
                continue
            raise OSError(errno.EBADMSG, f"{pid} could be registered")

    def trusted() -> None:
        file = os.open(REGISTRY, os.O_WRONLY)
        become(USER)
        os.write(file, f"{roots.pid} {EXE}\n".encode())

    assert in_child(fooled, None) == 0
    assert registry() == []
    assert in_child(trusted, None) == 0
    assert registry() == [f"{roots.pid} {EXE}"]


def test_a_process_that_became_root_gets_nothing(memcg: Scene, place: Path) -> None:
    """Registered by its user, then it execs a setuid program: no signal, and no grace."""
    setuid = place / "setuid"
    shutil.copy(program("oom_condition_creator"), setuid)
    setuid.chmod(0o4755)
    saved = place / "saved"
    for option in ("", "signal=15 "):
        victim = memcg.victim(str(USER), "--wait", str(setuid), name="run_as")
        line = f"{victim.pid} {option}{program('write_file')} {saved}"
        assert as_user(line) == 0
        go_and_exec(victim)
        assert int(Path(f"/proc/{victim.pid}/status").read_text().split("Uid:")[1].split()[1]) == 0
        memcg.kill_of(victim)
        memcg.events.expect(victim.pid, "kill")
        assert not saved.exists()


def test_a_process_that_execs_something_plain_keeps_its_handler(memcg: Scene, place: Path) -> None:
    saved = place / "saved"
    victim = memcg.victim(str(USER), "--wait", program("oom_condition_creator"), name="run_as")
    assert as_user(f"{victim.pid} {program('write_file')} {saved}") == 0
    go_and_exec(victim)
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["victim_alive"] == "1"


def test_a_setuid_handler_gains_nothing(memcg: Scene, place: Path) -> None:
    handler, saved = place / "handler", place / "saved"
    shutil.copy(program("write_file"), handler)
    handler.chmod(0o4755)
    assert handler.stat().st_mode & stat.S_ISUID
    victim = users_victim(memcg)
    assert as_user(f"{victim.pid} {handler} {saved}") == 0
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["euid"] == str(USER)


def test_a_handler_that_the_user_may_not_run(memcg: Scene, place: Path) -> None:
    handler = place / "handler"
    shutil.copy(EXE, handler)
    handler.chmod(0o700)
    victim = users_victim(memcg)
    assert as_user(f"{victim.pid} {handler}") == errno.EACCES


def test_a_process_with_a_filter(memcg: Scene) -> None:
    """Its handler would run without the filter."""
    victim = users_victim(memcg)
    line = f"{victim.pid} {EXE}"
    words = [
        program("run_as"),
        str(USER),
        "--filter",
        "/bin/bash",
        "-c",
        f"echo {line} >{REGISTRY}",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "not permitted" in done.stderr
    assert registry() == []
