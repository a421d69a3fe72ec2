"""A booted machine with systemd and sshd, and two ways to talk to it: testinfra and Fabric."""

from __future__ import annotations

import os
from collections.abc import Iterator

import fabric
import pytest
import testinfra
from testinfra.host import Host

from provisioning.vm import machines
from tests.kernels import chosen_series, kernel_or_skip
from tests.vm.remote import connected


@pytest.fixture(scope="session", params=chosen_series())
def machine(request: pytest.FixtureRequest) -> Iterator[machines.Machine]:
    """One machine for each series, with a name of its own: testinfra caches hosts by name."""
    kernel = kernel_or_skip(request.param)
    name = f"tests-{request.param}-{os.getpid()}"
    try:
        yield machines.up(kernel, name, memory_mb=768)
    finally:
        machines.down(name)


@pytest.fixture(scope="session")
def host(machine: machines.Machine, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """testinfra over ssh, one connection for all checks (it multiplexes with a path only)."""
    control = tmp_path_factory.mktemp("c") / "s"
    found: Host = testinfra.get_host(
        f"ssh://{machine.name}", ssh_config=str(machine.ssh_config), controlpath=str(control)
    )
    return found


@pytest.fixture
def connection(machine: machines.Machine) -> Iterator[fabric.Connection]:
    """To the machine of its series."""
    with connected(machine) as connection:
        yield connection
