"""A real host, by testinfra: `./dev verify --host NAME`, or `pytest tests/host --hosts=ssh://NAME`
(with --sudo where the user is not root). GS_HOST is its name where that has a user or a port, and
GS_SSH_CONFIG another ssh_config, for files that are copied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from provisioning.config import sudo_password
from provisioning.hosts.inventory import Host as Named
from provisioning.hosts.remote import connected
from provisioning.vm import payload

#: What is brought along: static, so that they run anywhere.
TOOLS = ("oom_condition_creator", "write_file")


class _Asked(SshBackend):
    """With a password for sudo, on its stdin."""

    def get_sudo_command(self, command: str, sudo_user: str | None) -> str:
        return self.quote("sudo -S -p '' /bin/sh -c %s", command)

    def run_local(self, command: str, *args: str) -> CommandResult:
        line = self.encode(self.quote(command, *args))
        told = f"{sudo_password()}\n".encode()
        done = subprocess.run(["sh", "-c", line], input=told, capture_output=True, check=False)
        return self.result(done.returncode, line, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def host(host: Host) -> Host:
    """testinfra knows no passwords of sudo's."""
    usual = host.backend
    if not (sudo_password() and usual.sudo and isinstance(usual, SshBackend)):
        return host
    spec, user, port = usual.host, f"{usual.host.user or ''}@", f":{usual.host.port or ''}"
    name = user.removeprefix("@") + spec.name + port.removesuffix(":")
    return Host(_Asked(name, ssh_config=usual.ssh_config, sudo=True))


@pytest.fixture(scope="module")
def tools(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A directory on the host, for the length of the tests, with our test programs."""
    name = os.environ.get("GS_HOST") or host.backend.get_hostname()
    programs = payload.programs()
    with connected(Named(name), tmp_path_factory.mktemp("log") / "host.log") as remote:
        # By who connects, who may be somebody else than who runs the checks: files are his.
        made = remote.run(["sh", "-c", 'mktemp -d "$HOME/.gs-verify-XXXXXX"'])
        folder = made.stdout.strip()
        try:
            for tool in TOOLS:
                remote.put(programs / tool, Path(folder, tool), mode=0o755)
            yield folder
        finally:
            host.run(f"rm -r {folder}")
