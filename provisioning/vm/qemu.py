"""Starting QEMU: the only module that knows its options and which accelerator works here."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from provisioning import arch, cache, commands, config
from provisioning.arch import ARM64, X86_64
from provisioning.errors import VMLost
from provisioning.progress import note
from provisioning.vm import initramfs

#: Seconds a kernel gets to boot as far as its missing root under KVM before we give KVM up.
#: A working one takes under two.
PROBE_DEADLINE = 20.0

#: Signals that a program brings upon itself.
CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
)

#: Every boot: eth0 and not the name of a slot. Mitigations cost much under emulation and test
#: nothing of ours.
KERNEL_ARGUMENTS = "net.ifnames=0 mitigations=off"

#: A reset on panic and oops, which -no-reboot turns into an exit. What a boot loader boots does
#: without: a machine of one's own has no such thing.
RESET_ARGUMENTS = "panic=-1 oops=panic"

#: Of a counting clock: 2^1 ns for an instruction, and nobody waits while all processors are idle.
INSTRUCTION = "shift=1,sleep=off"

#: The translator keeps the code of a page for each address at which it ran: a page of libc that two
#: hundred handlers had executed at random addresses took two minutes to clear.
EMULATION_ARGUMENTS = "norandmaps"


@dataclass(frozen=True)
class Board:
    """The machine that QEMU emulates for an architecture; ``arguments`` are for the kernel."""

    program: str
    package: str
    machine: str
    processor: str
    arguments: str


BOARDS = {
    # `rep stosb` looks for translated code at each byte, which makes a cleared page slower yet.
    # The time stamp counter is the host's, and its rate is measured while the host may be busy: a
    # guest whose clock ran sixteen times too fast was seen. The HPET's rate is known.
    X86_64: Board(
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        machine="pc",
        processor="max,-erms",
        arguments="console=ttyS0 tsc=unstable",
    ),
    # Pointers are signed with a cheap function in place of the real one, which takes most of the
    # time; kernels before 5.12 do not boot where addresses may have 52 bits.
    ARM64: Board(
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        machine="virt",
        processor="max,pauth-impdef=on,lpa2=off",
        arguments="console=ttyAMA0",
    ),
}


@dataclass(frozen=True)
class Drive:
    """A file as a virtio disk; ``/dev/vda`` is the first of a machine, and so on.

    With ``discard_writes`` the guest may write, and the file stays as it is. ``format``: qcow2 for
    one that :func:`overlay` made.
    """

    path: Path
    read_only: bool = False
    discard_writes: bool = False
    format: str = "raw"


@dataclass(frozen=True)
class Spec:
    """One machine. ``ports``: name of a virtio serial port → the file that receives its bytes.
    ``nodes``: NUMA nodes that share the memory evenly; the first has the processors.

    ``counted``: emulated, its clock counts instructions and not the host's time, so that a busy
    host is not measured along. For one processor: with two, QEMU 7.2 does not get through the
    kernel's boot. KVM knows no such thing. ``reboots``: a reset begins anew, with the same drives;
    else the machine ends with it, as with a panic. ``loader``: the first drive's boot loader says
    what is booted, and with which arguments; ``kernel`` is one that boots there. Such a machine has
    a watchdog, too, which resets it.
    """

    kernel: Path
    arguments: str
    console: Path
    drives: tuple[Drive, ...] = ()
    ports: tuple[tuple[str, Path], ...] = ()
    memory_mb: int = 512
    nodes: int = 1
    cpus: int = 2
    ssh_port: int | None = None
    counted: bool = False
    reboots: bool = False
    loader: bool = False


def start(
    spec: Spec, *, stays: bool = False, accelerator: str | None = None
) -> subprocess.Popen[bytes]:
    """Start the machine. It dies with the thread that started it unless it ``stays``."""
    spec.console.parent.mkdir(parents=True, exist_ok=True)
    argv = command_line(spec, accelerator or choose_accelerator(spec.kernel))
    own_log = spec.console.with_suffix(".qemu")
    with own_log.open("wb") as log:
        return commands.spawn(argv, stdout=log, stderr=subprocess.STDOUT, die_with_parent=not stays)


def command_line(spec: Spec, accelerator: str) -> list[str]:
    """All words of the QEMU command."""
    board = BOARDS[arch.of_image(spec.kernel)]
    program = str(commands.which_or_hint(board.program, board.package))
    words = [program, "-nodefaults", "-no-user-config", "-display", "none"]
    words += [] if spec.reboots else ["-no-reboot"]
    words += ["-machine", board.machine]
    words += _accelerator_words(accelerator, spec.counted, board.processor)
    words += ["-m", str(spec.memory_mb), "-smp", str(spec.cpus)]
    words += _node_words(spec) if spec.nodes > 1 else []
    if not spec.loader:
        known = kernel_arguments(spec.kernel, accelerator)
        arguments = " ".join([RESET_ARGUMENTS, known, spec.arguments])
        words += ["-kernel", str(spec.kernel), "-append", arguments]
        words += _initrd_words(spec.kernel)
    words += ["-chardev", f"file,id=console,path={_escape(spec.console)}"]
    words += ["-serial", "chardev:console"]
    words += ["-device", "virtio-rng-pci"]
    words += ["-device", "i6300esb"] if spec.loader else []
    for number, drive in enumerate(spec.drives):
        words += _drive_words(number, drive)
    words += _port_words(spec.ports)
    words += _network_words(spec.ssh_port)
    return words


def _node_words(spec: Spec) -> list[str]:
    words = []
    for node in range(spec.nodes):
        size = spec.memory_mb * 1024 * (node + 1) // spec.nodes
        size -= spec.memory_mb * 1024 * node // spec.nodes
        words += ["-object", f"memory-backend-ram,id=node{node},size={size}K"]
        cpus = f",cpus=0-{spec.cpus - 1}" if node == 0 else ""
        words += ["-numa", f"node,nodeid={node},memdev=node{node}{cpus}"]
    return words


def kernel_arguments(kernel: Path, accelerator: str) -> str:
    """What each kernel is booted with; a boot loader must be told."""
    words = [KERNEL_ARGUMENTS, BOARDS[arch.of_image(kernel)].arguments]
    return " ".join([*words, EMULATION_ARGUMENTS] if accelerator == "tcg" else words)


def overlay(base: Path, target: Path) -> Drive:
    """A new disk that has what is in the raw file ``base``, and keeps what is written to itself."""
    program = commands.which_or_hint("qemu-img", "qemu-utils")
    commands.run([program, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", target])
    return Drive(target, format="qcow2")


def own_words(spec: Spec) -> str:
    """What QEMU itself said (its own errors), one line."""
    try:
        return " ".join(spec.console.with_suffix(".qemu").read_text(errors="replace").split())
    except OSError:
        return ""


def slower_argument(times: float) -> str:
    """Tells programs in the guest how much longer than usual everything may take."""
    return f"gs.slower={times:g}"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def choose_accelerator(kernel: Path) -> str:
    """``kvm`` if a kernel really booted with it on this machine, else ``tcg`` (emulation).

    /dev/kvm can open and still not run a guest, so one boot with a deadline decides. The answer
    is kept for this QEMU on this host kernel.
    """
    if arch.of_image(kernel).is_foreign:
        return "tcg"
    remembered = config.cache_dir() / "vm" / "accelerator.json"
    machine = _machine_identity()
    try:
        known = json.loads(remembered.read_text())
        if known["machine"] == machine:
            return str(known["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    accelerator = "kvm" if _kvm_boots(kernel) else "tcg"
    if accelerator == "tcg":
        note("KVM does not run guests here: the machine is emulated, which is slower")
    remembered.parent.mkdir(parents=True, exist_ok=True)
    answer = {"machine": machine, "accelerator": accelerator}
    cache.write_whole(remembered, json.dumps(answer))
    return accelerator


def _machine_identity() -> str:
    board = BOARDS[X86_64]
    program = commands.which_or_hint(board.program, board.package)
    version = commands.run([program, "--version"]).stdout
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return f"{platform.node()} {platform.release()} kvm={usable} {version.splitlines()[0]}"


def _kvm_boots(kernel: Path) -> bool:
    """Without a root file system the kernel panics, which ends QEMU: that far is far enough."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with TemporaryDirectory() as folder:
        spec = Spec(kernel, "root=/dev/none", Path(folder, "console"), memory_mb=256)
        process = start(spec, accelerator="kvm")
        try:
            process.wait(timeout=PROBE_DEADLINE)
        except subprocess.TimeoutExpired:
            return False
        finally:
            commands.end(process, grace=1)
        return "Kernel panic" in read_console(spec.console)


def read_console(path: Path) -> str:
    """The console log as text; empty if there is none."""
    try:
        return path.read_bytes().decode(errors="replace").replace("\r", "")
    except OSError:
        return ""


def panicked(console: str) -> bool:
    """Whether the console tells of a kernel that ended itself."""
    return re.search(r"Kernel panic - not syncing|^.*\bOops: ", console, re.M) is not None


def wait_for_exit(process: subprocess.Popen[bytes], deadline: float, interval: float) -> bool:
    """Wait up to ``interval`` s, not beyond the (monotonic) deadline; True when it has ended."""
    left = max(0.0, min(interval, deadline - time.monotonic()))
    try:
        process.wait(timeout=left)
    except subprocess.TimeoutExpired:
        return False
    return True


def crashed(process: subprocess.Popen[bytes]) -> bool:
    """Whether QEMU, which has ended, went down by a mistake of its own.

    Debian 12's 7.2 does, rarely, when it emulates on a busy host. No guest can be at fault.
    """
    return -process.returncode in CRASHES


def lost(spec: Spec, why: str, hint: str = "") -> VMLost:
    """The error for a machine that went away, with the end of its console in the log."""
    said = own_words(spec)
    return VMLost(
        "the virtual machine was lost",
        f"{why} ({said})" if said else why,
        hint or f"its console: {spec.console}",
        log=spec.console,
    )


def _accelerator_words(accelerator: str, counted: bool, processor: str) -> list[str]:
    if accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    if counted:
        return ["-accel", "tcg,thread=single", "-icount", INSTRUCTION, "-cpu", processor]
    return ["-accel", "tcg,thread=multi", "-cpu", processor]


def _initrd_words(kernel: Path) -> list[str]:
    initrd = kernel.with_name(initramfs.NAME)
    return ["-initrd", str(initrd)] if initrd.exists() else []


def _drive_words(number: int, drive: Drive) -> list[str]:
    options = f"if=none,id=drive{number},format={drive.format},file={_escape(drive.path)}"
    if drive.read_only:
        options += ",readonly=on"
    if drive.discard_writes:
        options += ",snapshot=on"
    else:
        options += ",file.locking=off" if drive.read_only else ""
    return ["-drive", options, "-device", f"virtio-blk-pci,drive=drive{number}"]


def _port_words(ports: tuple[tuple[str, Path], ...]) -> list[str]:
    words = ["-device", "virtio-serial-pci"] if ports else []
    for number, (name, path) in enumerate(ports):
        words += ["-chardev", f"file,id=port{number},path={_escape(path)}"]
        words += ["-device", f"virtserialport,chardev=port{number},name={name}"]
    return words


def _network_words(ssh_port: int | None) -> list[str]:
    if ssh_port is None:
        return ["-nic", "none"]
    forward = f"hostfwd=tcp:127.0.0.1:{ssh_port}-:22"
    return ["-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile="]


def _escape(path: Path) -> str:
    """QEMU's option lists are split at commas; two of them mean one."""
    return str(path).replace(",", ",,")
