"""What testinfra finds on the booted machine: the same as on any host, and what is ours alone."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provisioning.vm import machines
from tests.host.test_gs import (
    features_of,
    test_gs_is_in_the_kernel,
    test_its_files_are_as_they_should_be,
    test_the_kernel_has_nothing_to_complain_of,
)

#: Run here, too.
__all__ = (
    "test_gs_is_in_the_kernel",
    "test_its_files_are_as_they_should_be",
    "test_the_kernel_has_nothing_to_complain_of",
)


def test_the_kernel_runs(host: Host, machine: machines.Machine) -> None:
    release = host.check_output("uname -r")
    series = machine.name.split("-")[1]
    assert release.startswith(series + ".")


def test_systemd_is_content(host: Host) -> None:
    # Not the scopes: other tests have victims killed in some.
    failed = "systemctl list-units --failed --type=service --plain --no-legend"
    assert host.check_output(failed) == ""
    assert host.service("ssh").is_running


def test_it_is_built_in(host: Host) -> None:
    assert features_of(host)["attachment"] == "builtin"


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
