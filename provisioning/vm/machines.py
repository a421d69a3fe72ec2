"""Machines that stay: a booted Debian with systemd and sshd, and the record of which are up."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from provisioning import cache, commands, config
from provisioning.errors import CommandTimedOut, HostFailed, UsageError, VMLost
from provisioning.kernel.versions import USUAL, Cost
from provisioning.progress import note, step
from provisioning.vm import disk, image, payload, qemu, ssh_config

DEFAULT_NAME = "default"

#: Seconds from the start to the first answer of sshd; emulated on a busy machine it takes 20–60.
BOOT_DEADLINE = 300.0

#: Exit status of ssh when it could not reach the machine, or no longer.
SSH_FAILED = 255

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


@dataclass(frozen=True)
class Machine:
    """A machine that was started: enough to reach it, from any later process.

    ``booting``: nobody has seen it answer yet.
    """

    name: str
    pid: int
    started: str
    ssh_port: int
    kernel: str
    memory_mb: int
    booting: bool = False

    @property
    def folder(self) -> Path:
        """Its console log, disk and ssh configuration."""
        return _folder(self.name)

    @property
    def console_log(self) -> Path:
        """The serial console, with the kernel log."""
        return self.folder / "console.log"

    @property
    def ssh_config(self) -> Path:
        """An ssh_config file with one host, named as the machine; its host key is known."""
        return self.folder / "ssh_config"

    def ssh_words(self, words: Sequence[str] = ()) -> list[str]:
        """The ssh command; ``words`` reach the guest's shell with their quoting intact."""
        command = ["ssh", "-F", str(self.ssh_config), self.name]
        return command + (["--", shlex.join(words)] if words else [])

    def alive(self) -> bool:
        """Whether this very QEMU still runs (not another process with its number)."""
        return _start_time(self.pid) == self.started

    def run(self, words: Sequence[str], timeout: float = 300.0) -> commands.Completed:
        """Run a command in the guest as root; 255 is ssh's own failure. VMLost if QEMU ended."""
        try:
            done = commands.run(self.ssh_words(words), timeout=timeout, check=False)
        except CommandTimedOut:
            self.check_alive()
            raise
        if done.returncode == SSH_FAILED:
            self.check_alive()
        return done

    def check_alive(self) -> None:
        """VMLost (exit code 7) if its QEMU is no more."""
        if not self.alive():
            raise VMLost(
                f"the machine {self.name} was lost",
                "it ended while it was in use",
                f"its console: {self.console_log}",
                log=self.console_log,
            )


@dataclass(frozen=True)
class _Parts:
    """What a machine is made of, see :func:`up`."""

    kernel: Path
    base: Path | None
    memory_mb: int
    cpus: int
    timeout: float
    slower: float


def up(
    kernel: Path,
    name: str = DEFAULT_NAME,
    *,
    memory_mb: int = 1024,
    cpus: int = 2,
    timeout: float = BOOT_DEADLINE,
    cost: Cost = USUAL,
    base: Path | None = None,
) -> Machine:
    """The machine of that name with this kernel, answering ssh. One that is up already is kept.

    It stays when this process ends; :func:`down` ends it. Raises VMLost if it does not come up.
    ``cost`` of the kernel's flavour comes on top of memory and timeout. ``base``: another root
    image than the usual one, by :func:`image.root_image`, or a disk, by :func:`disk.of_host`,
    whose boot loader boots what it will; such a machine may reboot.
    """
    _check_name(name)
    parts = _Parts(
        kernel=kernel,
        base=base,
        memory_mb=memory_mb + cost.memory_mb,
        cpus=cpus,
        timeout=timeout * cost.slower,
        slower=cost.slower,
    )
    with cache.exclusive(_folder(name)):
        running = find(name)
        if running is not None and running.booting:
            # We hold the lock, so whoever started it is gone, and nobody waits for it any more.
            note(f"ending the machine {name} that an interrupted run left booting")
            _kill(running)
            running = None
        if running is not None:
            if running.kernel == str(kernel):
                return running
            raise UsageError(
                f"a machine named {name} is up with another kernel",
                running.kernel,
                f"end it first: ./dev vm.down --name {name}",
            )
        with step(f"booting the machine {name}"):
            return _boot(name, parts)


@contextmanager
def boot(kernel: Path, *, memory_mb: int = 1024, cpus: int = 2) -> Iterator[Machine]:
    """A machine of its own for the length of the block."""
    machine = up(kernel, f"tmp-{os.getpid()}-{time.monotonic_ns()}", memory_mb=memory_mb, cpus=cpus)
    try:
        yield machine
    finally:
        down(machine.name)
        # Nobody else knows this name, so nobody waits for its lock.
        _folder(machine.name).with_name(machine.name + ".lock").unlink(missing_ok=True)


def find(name: str) -> Machine | None:
    """The machine if it is up; the traces of one that went away are left for its console log."""
    try:
        machine = Machine(**json.loads((_folder(name) / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return machine if machine.alive() else None


def get(name: str = DEFAULT_NAME) -> Machine:
    """The running machine of that name, or UsageError with the way to start it."""
    _check_name(name)
    machine = find(name)
    if machine is None or machine.booting:
        state = "is up" if machine is None else "answers yet: it is booting, or was left so"
        raise UsageError(f"no machine named {name} {state}", hint=f"./dev vm.up --name {name}")
    return machine


def machines() -> list[Machine]:
    """All machines that are up or booting, by name."""
    names = sorted(path.parent.name for path in _root().glob("*/state.json"))
    return [machine for machine in map(find, names) if machine is not None]


def down(name: str = DEFAULT_NAME) -> bool:
    """End the machine and remove its files; False if it was not up."""
    _check_name(name)
    with cache.exclusive(_folder(name)):
        machine = find(name)
        if machine is not None:
            _kill(machine)
        shutil.rmtree(_folder(name), ignore_errors=True)
    return machine is not None


def power_cycle(name: str) -> None:
    """Switch a machine off and on again, as it is; one that has a disk of its own goes on with what
    is on it. Does not wait until it answers."""
    with cache.exclusive(_folder(name)):
        machine = get(name)
        words = Path(f"/proc/{machine.pid}/cmdline").read_text().split("\0")[:-1]
        _kill(machine)
        with (machine.folder / "again.qemu").open("wb") as log:
            process = commands.spawn(words, stdout=log, die_with_parent=False)
        _write_state(replace(machine, pid=process.pid, started=_start_time(process.pid)))


def ssh(name: str, words: Sequence[str] = ()) -> int:
    """ssh into the machine on our own terminal; its exit status."""
    commands.which_or_hint("ssh", "openssh-client")
    machine = get(name)
    status = subprocess.call(machine.ssh_words(words))
    if status == SSH_FAILED:
        machine.check_alive()
    return status


def _boot(name: str, parts: _Parts) -> Machine:
    folder = _folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = parts.base or image.root_image()
    loader = (root / disk.DISK).exists()
    if loader:  # what it has written outlasts a reset
        first = qemu.overlay(root / disk.DISK, folder / "disk.qcow2")
    else:
        first = qemu.Drive(root / image.ROOT, discard_writes=True)
    public = image.ssh_key().with_suffix(".pub")
    drive = folder / "payload.tar"
    payload.write(drive, texts={"authorized_keys": public.read_bytes()})
    port = qemu.free_port()
    spec = qemu.Spec(
        kernel=parts.kernel,
        arguments=f"root=/dev/vda rw {qemu.slower_argument(parts.slower)}",
        console=folder / "console.log",
        drives=(first, qemu.Drive(drive, read_only=True)),
        memory_mb=parts.memory_mb,
        cpus=parts.cpus,
        ssh_port=port,
        reboots=parts.base is not None,
        loader=loader,
    )
    _write_ssh_config(folder, name, port, (root / image.HOST_KEY).read_text())
    process = qemu.start(spec, stays=True)
    started = _start_time(process.pid)
    machine = Machine(
        name, process.pid, started, port, str(parts.kernel), spec.memory_mb, booting=True
    )
    try:
        _write_state(machine)  # before it is up: should we be killed meanwhile, it can be found
        _wait_for_ssh(machine, spec, process, time.monotonic() + parts.timeout)
        machine = replace(machine, booting=False)
        _write_state(machine)
    except BaseException:
        commands.end(process, grace=1)
        raise
    return machine


def _wait_for_ssh(
    machine: Machine, spec: qemu.Spec, process: subprocess.Popen[bytes], deadline: float
) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise qemu.lost(spec, "it ended while it booted")
        try:
            if machine.run(["true"], timeout=30).returncode == 0:
                return
        except (HostFailed, VMLost):
            continue  # half-started sshd that does not answer, or QEMU ended: look again
        time.sleep(0.5)
    raise VMLost(
        f"the machine {machine.name} did not come up",
        "sshd did not answer in time",
        f"its console: {spec.console}",
        log=spec.console,
    )


def _write_state(machine: Machine) -> None:
    cache.write_whole(machine.folder / "state.json", json.dumps(asdict(machine)))


def _write_ssh_config(folder: Path, name: str, port: int, host_key: str) -> None:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(ssh_config.known_host(port, host_key))
    (folder / "ssh_config").write_text(ssh_config.host(name, port, known_hosts))


def _kill(machine: Machine) -> None:
    """It has its own session; SIGKILL is safe, since what it writes is thrown away."""
    os.kill(machine.pid, signal.SIGKILL)
    for _ in range(100):
        if not machine.alive():
            return
        try:
            os.waitpid(machine.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # started by an earlier process: init reaps it
        time.sleep(0.05)


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, which no other process with this number has; "" if none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"not a name for a machine: {name!r}",
            hint="use lower-case letters, digits, dots, dashes",
        )


def _root() -> Path:
    return config.cache_dir() / "vm" / "machines"


def _folder(name: str) -> Path:
    return _root() / name
