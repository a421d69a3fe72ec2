"""What testinfra finds on the booted machine: the kernel, its files, its settings."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provisioning.vm import machines
from tests.guest import splats


def test_the_kernel_runs(host: Host, machine: machines.Machine) -> None:
    release = host.check_output("uname -r")
    series = machine.name.split("-")[1]
    assert release.startswith(series + ".")


def test_systemd_is_content(host: Host) -> None:
    # Not the scopes: other tests have victims killed in some.
    failed = "systemctl list-units --failed --type=service --plain --no-legend"
    assert host.check_output(failed) == ""
    assert host.service("ssh").is_running


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("graceful_shutdown", 0o666),
        ("graceful_shutdown_events", 0o400),
        ("graceful_shutdown_features", 0o444),
    ],
)
def test_files(host: Host, name: str, mode: int) -> None:
    file = host.file(f"/proc/{name}")
    assert file.exists
    assert file.user == "root"
    assert file.mode == mode


def test_features(host: Host) -> None:
    lines = host.file("/proc/graceful_shutdown_features").content_string.splitlines()
    features = dict(line.split("=", 1) for line in lines)
    assert features["abi"] == "1"
    assert features["attachment"] == "builtin"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", 1),
        ("grace_ms", 2000),
        ("max_grace_ms", 30000),
        ("max_entries", 65536),
        ("max_running", 16),
    ],
)
def test_sysctls(host: Host, name: str, value: int) -> None:
    assert host.sysctl(f"vm.graceful_shutdown_{name}") == value


def test_a_sysctl_can_be_set_and_is_bounded(host: Host) -> None:
    setting = "vm.graceful_shutdown_grace_ms"
    assert host.run(f"sysctl -w {setting}=1500").rc == 0
    assert host.sysctl(setting) == 1500
    assert host.run(f"sysctl -w {setting}=0").rc != 0
    assert host.run(f"sysctl -w {setting}=2000").rc == 0


def test_counters(host: Host) -> None:
    vmstat = host.file("/proc/vmstat").content_string
    for name in ("grace", "done", "timeout", "failed", "averted"):
        assert f"\noom_graceful_{name} " in vmstat


def test_boot_left_no_splat(host: Host) -> None:
    assert splats.report(host.check_output("dmesg").splitlines()) == ""
