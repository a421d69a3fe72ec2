"""The benchmark's hosts: one, and several at once, are looked at and sent a kernel over ssh."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioning.hosts import fanout, inventory, preflight, uploads
from provisioning.hosts.remote import Remote
from provisioning.vm import image, sshd

#: So many hosts at once, in turn.
COUNTS = (1, len(sshd.USERS))

_SSH_CONFIG = """\
Host *
  HostName 127.0.0.1
  Port {port}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
"""


def measure(kernel: Path, trials: int) -> list[dict[str, Any]]:
    """A row for each trial: how many hosts, and nanoseconds until the last of them had it all."""
    with (
        tempfile.TemporaryDirectory(prefix="gs-hosts-") as name,
        sshd.serving(Path(name) / "sshd") as server,
        _known(server, Path(name)),
    ):
        _once(COUNTS[-1], kernel)  # what is read for the first time takes longer
        return [
            {"hosts": count, "ns": _once(count, kernel)} for _ in range(trials) for count in COUNTS
        ]


def _once(count: int, kernel: Path) -> int:
    hosts = inventory.chosen([f"{user}@gs-{user}" for user in sshd.USERS[:count]])

    def work(remote: Remote) -> int:
        preflight.gather(remote)
        uploads.upload(remote, [kernel])
        done = time.monotonic_ns()
        uploads.clear(remote)
        return done

    began = time.monotonic_ns()
    outcomes = fanout.on_each(hosts, work, "sending a kernel")
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return max(outcome.result or 0 for outcome in outcomes) - began


@contextmanager
def _known(server: sshd.Sshd, folder: Path) -> Iterator[None]:
    """For the length of the block any name of a host is this server's, and no others are known."""
    known, file = folder / "known_hosts", folder / "ssh_config"
    known.write_text(server.known_host)
    file.write_text(_SSH_CONFIG.format(port=server.port, key=image.ssh_key(), known_hosts=known))
    before = os.environ.get("GS_SSH_CONFIG")
    os.environ["GS_SSH_CONFIG"] = str(file)
    try:
        yield
    finally:
        del os.environ["GS_SSH_CONFIG"]
        if before is not None:
            os.environ["GS_SSH_CONFIG"] = before
