"""How a run in a throw-away machine can end, each way for real; and that no QEMU is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from provisioning.errors import UsageError, VMLost
from provisioning.vm import machines
from provisioning.vm.session import GuestResult, Outcome, guest_run
from tests.kernels import chosen_series, kernel_or_skip


@pytest.fixture(scope="module", params=chosen_series())
def kernel(request: pytest.FixtureRequest) -> Path:
    """The patched kernel of a series."""
    return kernel_or_skip(request.param)


def sh(kernel: Path, script: str, timeout: float = 120) -> GuestResult:
    """A shell line in a machine of its own."""
    return guest_run(kernel, ["sh", "-c", script], timeout=timeout)


def machines_of(word: str) -> list[int]:
    """Process numbers of QEMUs with this word on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and any(word.encode() in w for w in words):
            found.append(int(folder.name))
    return found


def test_ok(kernel: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.write_text("from outside")
    parts: list[str] = []
    result = guest_run(
        kernel,
        ["sh", "-c", "cat /gs/mine/extra; echo; echo 'a  b' >/out/file; id -u; echo end >&2"],
        extra={"mine/extra": extra},
        on_output=parts.append,
        timeout=120,
    )
    assert (result.outcome, result.exit_status) == (Outcome.OK, 0)
    assert result.output == "from outside\n0\nend\n"
    assert "".join(parts).startswith(result.output)
    assert (result.files / "file").read_text() == "a  b\n"
    assert "Power down" in result.console()
    assert result.check_alive() is result


def test_failed(kernel: Path) -> None:
    result = sh(kernel, "echo so far; exit 3")
    assert (result.outcome, result.exit_status) == (Outcome.FAILED, 3)
    assert result.output == "so far\n"


def test_killed_by_a_signal(kernel: Path) -> None:
    result = sh(kernel, "kill -9 $$")
    assert (result.outcome, result.exit_status) == (Outcome.FAILED, 137)


def test_what_a_command_prints_is_no_result(kernel: Path) -> None:
    """Only the token of this very run makes a result: here the machine goes off without it."""
    token = "0123456789abcdef0123456789abcdef"
    result = sh(kernel, f"printf '\\n{token} 0\\n'; sync; poweroff -f; sleep 100")
    assert (result.outcome, result.exit_status) == (Outcome.LOST, None)
    assert token in result.output


def test_panic(kernel: Path) -> None:
    result = sh(kernel, "echo before; echo c >/proc/sysrq-trigger; sleep 100")
    assert (result.outcome, result.exit_status) == (Outcome.PANIC, None)
    assert "sysrq" in result.console()
    with pytest.raises(VMLost) as caught:
        result.check_alive()
    assert caught.value.exit_code == 7
    assert "panicked" in str(caught.value) and "\n" not in str(caught.value)


def test_timeout(kernel: Path) -> None:
    began = time.monotonic()
    result = sh(kernel, "echo before; sleep 1000", timeout=25)
    assert (result.outcome, result.exit_status) == (Outcome.TIMEOUT, None)
    assert 25 <= time.monotonic() - began < 60
    assert not machines_of(str(result.console_log.parent))


@pytest.mark.parametrize("times", [1, 2])
def test_qemu_itself_crashes(kernel: Path, times: int) -> None:
    """Once: the run is made again. Twice: that is the result."""
    mark = f"gs.mark=crash-{os.getpid()}-{times}"

    def crash() -> None:
        for _ in range(times):
            while not (found := machines_of(mark)):
                time.sleep(0.05)
            os.kill(found[0], signal.SIGSEGV)
            while machines_of(mark) == found:
                time.sleep(0.05)

    killer = threading.Thread(target=crash, daemon=True)
    killer.start()
    result = guest_run(kernel, ["echo", "well"], arguments=mark, timeout=120)
    killer.join(10)
    if times == 1:
        assert (result.outcome, result.output) == (Outcome.OK, "well\n")
    else:
        assert (result.outcome, result.exit_status) == (Outcome.CRASHED, None)


def test_no_root_file_system_is_a_panic(kernel: Path) -> None:
    """A later root= wins; the kernel finds nothing to start."""
    result = guest_run(kernel, ["true"], arguments="root=/dev/nowhere", timeout=120)
    assert result.outcome is Outcome.PANIC


def test_a_kernel_that_is_none(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(b"this is no kernel" * 100)
    result = guest_run(image, ["true"], timeout=30)
    assert result.exit_status is None
    with pytest.raises(VMLost):
        result.check_alive()


def test_a_machine_that_does_not_come_up(tmp_path: Path) -> None:
    """One line, exit code 7, no QEMU and no record of it left."""
    image = tmp_path / "bzImage"
    image.write_bytes(b"this is no kernel" * 100)
    name = f"never-{os.getpid()}"
    try:
        with pytest.raises(VMLost) as caught:
            machines.up(image, name, timeout=15)
        assert caught.value.exit_code == 7
        assert "\n" not in str(caught.value) and "console" in str(caught.value)
        assert machines.find(name) is None
        assert not machines_of(str(image))
    finally:
        machines.down(name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_machine_dies_with_its_starter(kernel: Path, tmp_path: Path, number: int) -> None:
    script = (
        "import sys; from pathlib import Path; from provisioning.vm.session import guest_run; "
        "guest_run(Path(sys.argv[1]), ['sleep', '1000'], timeout=900, arguments=sys.argv[2])"
    )
    mark = f"gs.mark={os.getpid()}-{number}"
    starter = subprocess.Popen([sys.executable, "-c", script, str(kernel), mark])
    try:
        deadline = time.monotonic() + 120
        while not machines_of(mark):
            assert time.monotonic() < deadline and starter.poll() is None
            time.sleep(0.1)
        starter.send_signal(number)
        starter.wait(30)
        while machines_of(mark):
            assert time.monotonic() < deadline, "QEMU outlives who started it"
            time.sleep(0.1)
    finally:
        starter.kill()
        starter.wait()


def test_a_machine_whose_starter_is_killed_while_it_boots(kernel: Path) -> None:
    """Nothing leaks: it is on record, and whoever asks next ends it."""
    name = f"orphan-{os.getpid()}"
    script = (
        "import sys; from pathlib import Path; from provisioning.vm import machines; "
        "machines.up(Path(sys.argv[1]), sys.argv[2])"
    )
    starter = subprocess.Popen([sys.executable, "-c", script, str(kernel), name])
    try:
        deadline = time.monotonic() + 120
        while (machine := machines.find(name)) is None:
            assert time.monotonic() < deadline and starter.poll() is None
            time.sleep(0.01)
        assert machine.booting
        starter.kill()
        starter.wait()
        assert machine.alive(), "it stays, as a machine that is up would"
        with pytest.raises(UsageError, match="booting"):
            machines.get(name)
        assert [row.name for row in machines.machines() if row.booting] == [name]
        assert machines.down(name)
        assert not machine.alive()
    finally:
        starter.kill()
        starter.wait()
        machines.down(name)
