"""One command in one throw-away machine: boot, run, bring back what it printed and made."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from provisioning import arch, commands, config
from provisioning.errors import VMLost, tail
from provisioning.kernel.versions import USUAL, Cost
from provisioning.progress import note
from provisioning.vm import image, payload, qemu

#: How many finished runs are kept below the cache, with console and results.
KEPT_RUNS = 30

#: In the image. (loglevel=4: a report of an OOM is 100 lines on a slow serial line, written while
#: the kernel holds up the OOM; errors and what a panic says still reach the console.)
GUEST_INIT = "/usr/local/sbin/gs-init"

#: In a run's folder, what the guest's command prints, then the token and its exit status.
RESULT = "result"

#: Seconds between two looks at a running machine.
INTERVAL = 0.1


class Outcome(Enum):
    """How a run ended. Only the first two are results; the others are a machine that failed."""

    OK = "ok"
    FAILED = "failed"
    PANIC = "panic"
    LOST = "lost"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclass(frozen=True)
class GuestResult:
    """What came back. ``exit_status`` is None unless the guest itself reported it.

    ``output``: what the command printed; ``files``: the directory with what it left in /out;
    ``console_log``: the serial console, with the kernel log.
    """

    outcome: Outcome
    exit_status: int | None
    output: str
    console_log: Path
    files: Path
    seconds: float

    def console(self) -> str:
        """The text of the console."""
        return qemu.read_console(self.console_log)

    def check_alive(self) -> GuestResult:
        """Self, or VMLost (exit code 7) unless the guest reported a result."""
        if self.exit_status is not None:
            return self
        why = {
            Outcome.PANIC: "the guest's kernel panicked",
            Outcome.TIMEOUT: f"no result after {self.seconds:.0f} s",
            Outcome.CRASHED: "QEMU itself crashed, twice",
        }.get(self.outcome, "it ended without a result")
        last = " | ".join(tail(self.console_log, 3))
        raise VMLost(
            "the virtual machine was lost",
            f"{why}; its last words: {last}",
            f"its console: {self.console_log}",
            log=self.console_log,
        )


def guest_run(
    kernel: Path,
    command: Sequence[str],
    *,
    memory_mb: int = 512,
    nodes: int = 1,
    cpus: int = 2,
    timeout: float = 300.0,
    swap_mb: int = 0,
    arguments: str = "",
    extra: Mapping[str, Path] | None = None,
    on_output: Callable[[str], None] | None = None,
    cost: Cost = USUAL,
    counted: bool = False,
    disk: Path | None = None,
) -> GuestResult:
    """Boot ``kernel`` (an image), run ``command`` as root, power off. Never hangs, leaves no QEMU.

    The working directory is /gs (package ``gs``, ``bin``, ``tests/guest``, and ``extra``: name →
    file or directory); what lies in /out at the end comes back. ``timeout`` seconds bound the
    whole machine. ``swap_mb`` makes /dev/vdc, ready for swapon. ``arguments`` go to the kernel.
    ``on_output`` gets the output as it comes. ``cost`` of the kernel's flavour comes on top of
    memory and timeout. ``counted`` and ``nodes`` as in :class:`qemu.Spec`. If QEMU itself crashes
    it is all done once more. ``disk``: a raw file whose first partition is the root file system,
    and which keeps what is written to it.
    """
    spec, token = _prepare(
        kernel,
        command,
        extra,
        memory_mb=memory_mb + cost.memory_mb,
        nodes=nodes,
        cpus=cpus,
        swap_mb=swap_mb,
        arguments=f"{qemu.slower_argument(cost.slower)} {arguments}",
        counted=counted,
        disk=disk,
    )
    timeout *= cost.slower
    for _ in range(2):
        began = time.monotonic()
        ended = _run_to_end(spec, began + timeout, on_output)
        seconds = time.monotonic() - began
        if ended is not Outcome.CRASHED:
            break
        note("QEMU itself crashed, which is no fault of the guest's")
    return _result(spec, token, ended, seconds)


def _prepare(
    kernel: Path,
    command: Sequence[str],
    extra: Mapping[str, Path] | None,
    *,
    memory_mb: int,
    nodes: int,
    cpus: int,
    swap_mb: int,
    arguments: str,
    counted: bool,
    disk: Path | None,
) -> tuple[qemu.Spec, str]:
    """A folder with everything the machine needs, and the token by which its result is known."""
    folder = _new_run_folder()
    token = secrets.token_hex(16)
    of = arch.of_image(kernel)
    payload.write(folder / "payload.tar", command=command, extra=extra, arch=of)
    if disk is None:
        root = image.root_image(image.recipe_for(of)) / image.ROOT
        device, drives = "/dev/vda", [qemu.Drive(root, discard_writes=True)]
    else:
        device, drives = "/dev/vda1", [qemu.Drive(disk)]
    drives.append(qemu.Drive(folder / "payload.tar", read_only=True))
    if swap_mb:
        drives.append(qemu.Drive(_swap_file(folder, swap_mb)))
    spec = qemu.Spec(
        kernel=kernel,
        arguments=f"root={device} rw init={GUEST_INIT} loglevel=4 gs.token={token} {arguments}",
        console=folder / "console.log",
        drives=tuple(drives),
        ports=(("gs.result", folder / RESULT), ("gs.files", folder / "files.tar")),
        memory_mb=memory_mb,
        nodes=nodes,
        cpus=cpus,
        counted=counted,
    )
    return spec, token


def _result(spec: qemu.Spec, token: str, ended: Outcome | None, seconds: float) -> GuestResult:
    """Judge the machine that has ended, and keep of its folder what is of use."""
    folder = spec.console.parent
    output, status = _split_result(folder / RESULT, token)
    outcome = _judge(ended, status, qemu.read_console(spec.console))
    (folder / "payload.tar").unlink()
    (folder / "swap").unlink(missing_ok=True)
    files = _unpack(folder)
    return GuestResult(outcome, status, output, spec.console, files, seconds)


def _run_to_end(
    spec: qemu.Spec, deadline: float, on_output: Callable[[str], None] | None
) -> Outcome | None:
    """None when the machine ended by itself, else TIMEOUT or CRASHED."""
    follower = _Follower(spec.console.parent / RESULT, on_output)
    process = qemu.start(spec)
    try:
        while not qemu.wait_for_exit(process, deadline, INTERVAL):
            follower.read()
            if time.monotonic() >= deadline:
                return Outcome.TIMEOUT
        follower.read()
    finally:
        commands.end(process, grace=1)
    if qemu.crashed(process):
        return Outcome.CRASHED
    if process.returncode != 0 and not spec.console.exists():
        raise qemu.lost(spec, f"QEMU ended with {process.returncode}")
    return None


class _Follower:
    """Hands on what was added to a growing file."""

    def __init__(self, path: Path, sink: Callable[[str], None] | None):
        self._path, self._sink, self._at = path, sink, 0

    def read(self) -> None:
        if self._sink is None or not self._path.exists():
            return
        with self._path.open("rb") as source:
            source.seek(self._at)
            new = source.read()
        self._at += len(new)
        if new:
            self._sink(new.decode(errors="replace"))


def _judge(ended: Outcome | None, status: int | None, console: str) -> Outcome:
    """The token decides first: a guest that reported has done its work, whatever came after."""
    if status is not None:
        return Outcome.OK if status == 0 else Outcome.FAILED
    if qemu.panicked(console):
        return Outcome.PANIC
    return ended or Outcome.LOST


def _split_result(result: Path, token: str) -> tuple[str, int | None]:
    """The command's output and the exit status that followed the token, if any."""
    try:
        text = result.read_bytes().decode(errors="replace")
    except OSError:
        return "", None
    output, found, rest = text.rpartition(f"\n{token} ")
    status = rest.strip()
    if not found or not status.isdigit():
        return text, None
    return output, int(status)


def _unpack(folder: Path) -> Path:
    files = folder / "files"
    files.mkdir()
    archive = folder / "files.tar"
    try:
        with tarfile.open(archive) as source:
            # Early 3.10 and 3.11 have no filters; the archive is our own guest's.
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            source.extractall(files, **safe)  # type: ignore[arg-type]
    except (OSError, tarfile.TarError):
        pass  # a guest that died has sent none or half of it
    archive.unlink(missing_ok=True)
    return files


def _swap_file(folder: Path, size_mb: int) -> Path:
    path = folder / "swap"
    with path.open("wb") as file:
        file.truncate(size_mb << 20)
    return path


def _new_run_folder() -> Path:
    runs = config.cache_dir() / "vm" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for path in sorted(runs.iterdir())[:-KEPT_RUNS]:  # their names begin with the time
        if _untouched_for(path) > 3600:  # nobody is still in it
            shutil.rmtree(path, ignore_errors=True)
    folder = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(2)}"
    folder.mkdir()
    return folder


def _untouched_for(path: Path) -> float:
    """Seconds; none where another run has just removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
