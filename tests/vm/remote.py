"""Fabric's way into a machine of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import fabric

from provisioning.hosts.remote import connection_to
from provisioning.vm import machines


@contextmanager
def connected(machine: machines.Machine) -> Iterator[fabric.Connection]:
    """For the length of a block."""
    with connection_to(machine.name, machine.ssh_config) as connection:
        yield connection
