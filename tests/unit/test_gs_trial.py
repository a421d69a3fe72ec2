"""What a handler is made of, and its trial run: real programs, started as the kernel does it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gs import doctor, trial
from gs.doctor import GOOD, WARNING
from gs.errors import InvalidHandler
from gs.finding import Machine
from gs.paths import KernelFiles
from tests.unit.gs_support import gs, make_procfs


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def shell(text: str, grace: float = 20) -> trial.Trial:
    return trial.run(["/bin/sh", "-c", text], grace)


# ---------------------------------------------------------------------------- what it is


def test_programs_and_scripts(tmp_path: Path) -> None:
    plain = trial.look_at("/bin/sh")
    assert (plain.kind, plain.size) == ("dynamic", Path("/bin/sh").stat().st_size)
    text = "#! /bin/sh -e\ntrue\n"
    image = trial.look_at(script(tmp_path / "s", text))
    assert image == trial.Image("script", len(text), "/bin/sh")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="takes gcc")
def test_a_static_program(tmp_path: Path) -> None:
    (tmp_path / "p.c").write_text("int main(void) { return 0; }\n")
    for flags, kind in (["-static"], "static"), ([], "dynamic"):
        subprocess.run(["gcc", *flags, "-o", "p", "p.c"], cwd=tmp_path, check=True)
        assert trial.look_at(str(tmp_path / "p")).kind == kind


def test_what_the_kernel_cannot_execute(tmp_path: Path) -> None:
    with pytest.raises(InvalidHandler, match="#!/bin/sh"):
        trial.look_at(script(tmp_path / "plain", "echo hi\n"))
    with pytest.raises(InvalidHandler, match="/nowhere/sh"):
        doctor.examine_handler([script(tmp_path / "lost", "#!/nowhere/sh\n")])
    with pytest.raises(InvalidHandler, match="''"):
        doctor.examine_handler([script(tmp_path / "none", "#!\n")])


def test_a_program_that_is_cut_off_or_damaged(tmp_path: Path) -> None:
    whole = Path("/bin/sh").read_bytes()
    path = tmp_path / "cut"
    for data in (whole[:4], whole[:40], whole[:80], whole[:32] + b"\xff" * 8 + whole[40:]):
        path.write_bytes(data)
        path.chmod(0o755)
        with pytest.raises(InvalidHandler, match="damaged"):
            trial.look_at(str(path))
    assert gs("doctor", "--on-oom", str(path)).returncode == 6


def test_a_program_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "private"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o711)
    if os.geteuid() == 0:  # it reads all the same

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(trial, "open", refuse, raising=False)
    with pytest.raises(InvalidHandler, match="not read"):
        trial.look_at(str(path))


# ---------------------------------------------------------------------------- how it runs


def test_it_gets_what_the_kernel_gives() -> None:
    group, session = map(int, shell("cut -d' ' -f5,6 /proc/$$/stat").output.split())
    assert group == session != os.getsid(0)
    assert shell("pwd; [ -t 0 ] || echo $(pwd) $(cat | wc -c)").output == "/ 0"
    assert shell("echo $HOME $GS_CONSTRAINT $GS_GRACE_MS", 1.5).output == "/ none 1500"
    assert shell("env | grep -vE '^(PATH|HOME|PWD|GS_[A-Z_]+)='; echo end").output == "end"
    assert shell("cat /proc/$GS_PID/comm").output == "sleep"
    # Without a pipe, of which the shell would hold an end; and not the shell's last command.
    assert shell("ls -m /proc/$$/fd; true").output == "0, 1, 2"


def test_how_it_ended() -> None:
    good = shell("echo first; echo last; exit 0")
    assert (good.exit_status, good.output) == (0, "last") and 0 < good.elapsed < 10
    assert shell("exit 7").exit_status == 7
    assert shell("kill -9 $$").exit_status == -9
    assert shell("kill -9 $GS_PID").exit_status == 0
    began = time.monotonic()
    hung = shell("echo waiting; sleep 50", 0.3)
    assert (hung.exit_status, hung.output) == (None, "waiting")
    assert 0.3 <= hung.elapsed <= time.monotonic() - began < 10


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            pass  # it has ended meanwhile


def test_nothing_stays() -> None:
    mark = f"86{os.getpid()}"
    strays = f"sleep {mark}1 & setsid sleep {mark}2 & (setsid setsid sleep {mark}3 &)"
    for last, grace in (("exit 0", 20.0), ("wait", 0.3)):
        shell(f"{strays} {last}", grace)
        assert not [words for words in command_lines() if mark.encode() in words]


def test_children_of_the_caller_stay() -> None:
    with subprocess.Popen(["sleep", "60"]) as own:
        shell("true")
        assert own.poll() is None
        own.kill()


def test_memory_is_the_handlers_and_not_ours() -> None:
    assert 100 < shell("true").peak_kb < 8000
    hold = f"{sys.executable} -S -c 'x = bytearray(60 << 20)'"
    assert 60 << 10 < shell(hold).peak_kb < 90 << 10
    # Of two at once the sum counts, as it does for the kernel.
    two = f"{sys.executable} -S -c 'import time; x = bytearray(40 << 20); time.sleep(0.5)'"
    assert 80 << 10 < shell(f"{two} & {two}; wait").peak_kb < 130 << 10


# ---------------------------------------------------------------------------- what is said of it


def machine(tmp_path: Path, **sysctls: int) -> Machine:
    procfs = make_procfs(tmp_path / "kernel")
    for name, value in sysctls.items():
        (procfs / "sys/vm" / f"graceful_shutdown_{name}").write_text(f"{value}\n")
    return Machine("", KernelFiles(sysctl=str(procfs / "sys/vm")))


def test_a_good_handler(tmp_path: Path) -> None:
    here = machine(tmp_path, grace_ms=20000, handler_max_kb=65536, reserve_kb=8192)
    image, end, memory = doctor.examine_handler(["/bin/sh", "-c", "true"], None, here)
    assert [f.level for f in (image, end, memory)] == [GOOD] * 3
    assert "dynamically linked" in image.text and "of its 20000 ms" in end.text


def test_the_size_of_an_interpreter_counts_too(tmp_path: Path) -> None:
    path = script(tmp_path / "s", "#!/bin/sh\n")
    image, *_ = doctor.examine_handler([path], 20.0)
    kb = (Path("/bin/sh").stat().st_size + 1023) // 1024
    assert f"1 kB, a script for /bin/sh ({kb} kB, dynamically linked)" in image.text


@pytest.mark.parametrize(
    ("text", "grace", "said", "mend"),
    [
        ("exit 3", 20.0, "ended with 3 ", "by hand"),
        ("printf 'a\\033[2Jb\\n'; exit 1", 20.0, "its last words: 'a\\x1b[2Jb'", "by hand"),
        ("kill -11 $$", 20.0, "ended with -11 ", "by hand"),
        ("sleep 50", 0.2, "of its 200 ms and was killed", "--grace"),
        ("sleep 0.5", 0.9, "read from the disk again", "--grace"),
    ],
)
def test_a_bad_end(text: str, grace: float, said: str, mend: str) -> None:
    _, end, _ = doctor.examine_handler(["/bin/sh", "-c", text], grace)
    assert end.level == WARNING and said in end.text and mend in end.mend


def test_too_much_memory(tmp_path: Path) -> None:
    here = machine(tmp_path, handler_max_kb=300, reserve_kb=200)
    *_, memory = doctor.examine_handler(["/bin/sh", "-c", "true"], 20.0, here)
    assert memory.level == WARNING and "graceful_shutdown_handler_max_kb" in memory.mend
    shutil.rmtree(tmp_path / "kernel")
    here = machine(tmp_path, handler_max_kb=65536, reserve_kb=200)
    *_, memory = doctor.examine_handler(["/bin/sh", "-c", "true"], 20.0, here)
    assert memory.level == WARNING and "graceful_shutdown_reserve_kb" in memory.mend


def test_as_the_command(tmp_path: Path) -> None:
    done = gs("doctor", "--on-oom", "sh -c 'echo $GS_GRACE_MS'", "--grace", "21s")
    # Whether this machine can protect a program is not for this test.
    assert done.returncode in (0, 3) and done.stderr == ""
    assert "of its 21000 ms" in done.stdout
    for words, code in (
        (("--on-oom", "/nowhere"), 6),
        (("--on-oom", script(tmp_path / "plain", "echo\n")), 6),
        (("--on-oom", "true", "--grace", "0"), 2),
        (("--grace", "5s"), 2),
    ):
        refused = gs("doctor", *words)
        assert (refused.returncode, refused.stdout) == (code, "")
        assert refused.stderr.count("\n") == 1
