"""Fabric's way into a machine of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fabric
import paramiko

from provisioning.vm import machines


@contextmanager
def connected(machine: machines.Machine) -> Iterator[fabric.Connection]:
    """For the length of a block. Fabric by itself would take any host key."""
    config = fabric.Config(runtime_ssh_path=str(machine.ssh_config))
    config["run"].update({"in_stream": False, "hide": True, "warn": True})
    with fabric.Connection(machine.name, config=config) as connection:
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.client.load_host_keys(str(Path(machine.folder, "known_hosts")))
        yield connection
