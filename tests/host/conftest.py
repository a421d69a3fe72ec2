"""A real host, by testinfra: `./dev verify --host NAME`, or `pytest tests/host --hosts=ssh://NAME`
(with --sudo where the user is not root). GS_SSH_CONFIG or --ssh-config is another ssh_config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from provisioning.config import sudo_password
from provisioning.hosts.inventory import Host as Named
from provisioning.hosts.remote import SUDO, SUDO_ASKS, Remote, connected
from provisioning.vm import payload

#: What is brought along: static, so that they run anywhere.
TOOLS = ("oom_condition_creator", "write_file")


class _OverOne(BaseBackend):
    """All over one connection of ours, which knows sudo's password, too. testinfra's own makes one
    for each command, which takes longer than all that is looked at."""

    NAME = "gs"

    def __init__(self, remote: Remote, sudo: bool) -> None:
        super().__init__(remote.host.name, sudo=sudo)
        self.remote = remote

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        line, become = self.quote(command, *args), SUDO_ASKS if sudo_password() else SUDO
        words = [*(become if self.sudo else ()), "sh", "-c", line]
        done = self.remote.run(words, check=False)
        return self.result(done.returncode, self.encode(line), done.stdout, done.stderr)


@pytest.fixture(scope="module")
def host(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host that is asked for, over one connection for the length of the tests."""
    usual = host.backend
    assert isinstance(usual, SshBackend), "give it as --hosts=ssh://[USER@]NAME[:PORT]"
    user, port = f"{usual.host.user or ''}@", f":{usual.host.port or ''}"
    name = Named(user.removeprefix("@") + usual.host.name + port.removesuffix(":"))
    with pytest.MonkeyPatch.context() as patch:
        if usual.ssh_config:
            patch.setenv("GS_SSH_CONFIG", usual.ssh_config)
        with connected(name, tmp_path_factory.mktemp("log") / "host.log") as remote:
            yield Host(_OverOne(remote, usual.sudo))


@pytest.fixture(scope="module")
def tools(host: Host) -> Iterator[str]:
    """A directory on the host, for the length of the tests, with our test programs."""
    programs, remote = payload.programs(), host.backend.remote
    # By who connects, who may be somebody else than who runs the checks: files are his.
    made = remote.run(["sh", "-c", 'mktemp -d "$HOME/.gs-verify-XXXXXX"'])
    folder = made.stdout.splitlines()[-1]  # a shell may greet first
    try:
        for tool in TOOLS:
            remote.put(programs / tool, Path(folder, tool), mode=0o755)
        yield folder
    finally:
        host.run("rm -r %s", folder)
