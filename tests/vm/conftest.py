"""A booted machine with systemd and sshd, and two ways to talk to it: testinfra and Fabric."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fabric
import paramiko
import pytest
import testinfra
from testinfra.host import Host

from provisioning.vm import machines
from tests.kernels import chosen_series, kernel_or_skip


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
    """Fabric, which by itself would take any host key."""
    config = fabric.Config(runtime_ssh_path=str(machine.ssh_config))
    config["run"].update({"in_stream": False, "hide": True, "warn": True})
    with fabric.Connection(machine.name, config=config) as connection:
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.client.load_host_keys(str(Path(machine.folder, "known_hosts")))
        yield connection
