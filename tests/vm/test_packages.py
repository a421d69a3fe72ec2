"""From Debian as it comes to a handler before a kill, with two packages and nothing else.

The machine has Debian's own kernel, and its headers and DKMS already, since it has no network to
fetch them from.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import fabric
import pytest

from provisioning import package
from provisioning.errors import HostFailed, VMLost
from provisioning.vm import image, machines
from tests.vm.remote import connected

#: Seconds, emulated on a busy host: for the compiler, and for a boot.
BUILD, BOOT = 1800, 300

OURS = ("/proc/graceful_shutdown", "/usr/bin/gs-oom", "/usr/src/gs-oom-*", "/var/lib/dkms/gs-oom",
        "/lib/modules/*/updates/dkms/gs_oom.ko*", "/sys/module/gs_oom",
        "/usr/lib/python3/dist-packages/gs", "/etc/sysctl.d/60-gs-oom.conf")  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[machines.Machine]:
    """Debian as it comes, with our packages in /root."""
    name = f"tests-packages-{time.monotonic_ns()}"
    base = image.root_image(image.STOCK)
    try:
        yield machines.up(base / image.KERNEL, name, memory_mb=1024, base=base)
    finally:
        machines.down(name)


def said(connection: fabric.Connection, command: str, timeout: float = 120) -> str:
    """What it prints; it must end well."""
    done = connection.run(command, timeout=timeout)
    assert done.ok, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    text: str = done.stdout
    return text


def there(connection: fabric.Connection) -> list[str]:
    """What of ours lies on the machine."""
    return [path for path in OURS if connection.run(f"ls -d {path}").ok]


def protect(connection: fabric.Connection, saved: str) -> None:
    """`gs-oom run`, an OOM, the handler, the kill."""
    victim = "/gs/bin/oom_condition_creator --now --grace 8s"
    gs = f"gs-oom run {victim} --on-oom {shlex.quote(f'/gs/bin/write_file {saved}')}"
    inner = shlex.quote(f"echo 1000 >/proc/self/oom_score_adj; exec {gs}")
    scope = "systemd-run --quiet --scope -p MemoryMax=64M -p MemorySwapMax=0"
    done = connection.run(f"{scope} sh -c {inner}; echo ended $?", timeout=180)
    assert done.stdout.endswith("ended 137\n"), done.stdout + done.stderr
    words = dict(line.split("=", 1) for line in said(connection, f"cat {saved}").splitlines())
    assert (words["victim_alive"], words["GS_CONSTRAINT"]) == ("1", "memcg")
    events = said(connection, "timeout 2 cat /proc/graceful_shutdown_events || true")
    ours = [line for line in events.splitlines() if f" pid={words['GS_PID']} " in line]
    assert [line.split(" event=")[1].split()[0] for line in ours] == ["grace", "done", "kill"]


def reboot(machine: machines.Machine) -> None:
    """And wait until it is another boot that answers."""
    boot_id = "/proc/sys/kernel/random/boot_id"
    before = machine.run(["cat", boot_id]).stdout
    machine.run(["systemctl", "reboot"])
    deadline = time.monotonic() + BOOT
    while time.monotonic() < deadline:
        try:
            done = machine.run(["cat", boot_id], timeout=30)
        except HostFailed:
            continue
        if done.returncode == 0 and done.stdout != before:
            return
        time.sleep(1)
    raise VMLost("the machine did not come back", f"see {machine.console_log}")


def test_from_stock_to_protected_and_back(machine: machines.Machine, tmp_path: Path) -> None:
    """Installed, an OOM; rebooted, an OOM with the settings of sysctl.d; purged, all is gone."""
    debs = [package.tool(tmp_path), package.dkms(tmp_path)]
    names = " ".join(f"./{deb.name}" for deb in debs)
    with connected(machine) as connection:
        assert there(connection) == []
        for deb in debs:
            connection.put(str(deb), "/root/")
        said(connection, f"cd /root && apt-get install -y {names}", timeout=BUILD)
        assert len(there(connection)) == len(OURS)
        protect(connection, "/root/saved-1")
        settings = "sed -i 's/^#-\\(vm.graceful_shutdown_grace_ms =\\) .*/-\\1 2750/'"
        said(connection, f"{settings} /etc/sysctl.d/60-gs-oom.conf")
    reboot(machine)
    with connected(machine) as connection:
        assert said(connection, "sysctl -n vm.graceful_shutdown_grace_ms") == "2750\n"
        protect(connection, "/root/saved-2")
        said(connection, "modprobe -r gs_oom && modprobe gs_oom && udevadm settle")
        assert said(connection, "sysctl -n vm.graceful_shutdown_grace_ms") == "2750\n"
        said(connection, "apt-get purge -y gs-oom gs-oom-dkms", timeout=BUILD)
        assert there(connection) == []
