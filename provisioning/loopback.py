"""The benchmark's hosts: one, and several at once, are looked at and sent a kernel over ssh.

Each is an sshd in a root file system of its own on this machine. Real hosts have processors of
their own; so that these do not wait for each other's, each has a part of one, and no more when it
is alone: of two processors the hosts have one together, and the other one is ours.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from provisioning import cpugroup
from provisioning.hosts import fanout, inventory, preflight, uploads
from provisioning.hosts.remote import Remote
from provisioning.vm import ssh_config, sshd

#: So many hosts at once, in turn.
COUNTS = (1, 4)

#: Of a processor for each host; None: all of them, shared with the other hosts and with us.
PARTS = (1 / COUNTS[-1], None)


def check() -> None:
    """HostFailed where they cannot be measured."""
    with cpugroup.made(_group("check")):
        pass


def measure(kernel: Path, trials: int) -> list[dict[str, Any]]:
    """A row for each trial: how many hosts, with which part of a processor each, and nanoseconds
    until the last of them had it all."""
    with tempfile.TemporaryDirectory(prefix="gs-hosts-") as name, ExitStack() as stack:
        groups, servers = [], []
        for number in range(COUNTS[-1]):
            groups.append(stack.enter_context(cpugroup.made(_group(number))))
            folder, before = Path(name, f"{number}"), groups[-1].before
            servers.append(stack.enter_context(sshd.serving(folder, before=before)))
        names = stack.enter_context(_known(servers, Path(name)))
        rows = []
        for part in PARTS:
            for group in groups:
                group.limit(part)
            _once(names, kernel)  # what is read for the first time takes longer
            rows += [
                {"hosts": count, "part": part, "ns": _once(names[:count], kernel)}
                for _ in range(trials)
                for count in COUNTS
            ]
        return rows


def _group(of: int | str) -> str:
    """Its name, which is no other process's: two may measure at once."""
    return f"gs-bench-{os.getpid()}-{of}"


def _once(names: Sequence[str], kernel: Path) -> int:
    def work(remote: Remote) -> int:
        preflight.gather(remote)
        uploads.upload(remote, [kernel])
        done = time.monotonic_ns()
        uploads.clear(remote)
        return done

    began = time.monotonic_ns()
    outcomes = fanout.on_each(inventory.chosen(names), work, "sending a kernel")
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return max(outcome.result or 0 for outcome in outcomes) - began


@contextmanager
def _known(servers: Sequence[sshd.Sshd], folder: Path) -> Iterator[list[str]]:
    """Their names, by which they and no others are known for the length of the block."""
    known, file = folder / "known_hosts", folder / "ssh_config"
    known.write_text("".join(server.known_host for server in servers))
    hosts = {f"gs-bench-{number}": server.port for number, server in enumerate(servers)}
    file.write_text("".join(ssh_config.host(name, port, known) for name, port in hosts.items()))
    before = os.environ.get("GS_SSH_CONFIG")
    os.environ["GS_SSH_CONFIG"] = str(file)
    try:
        yield list(hosts)
    finally:
        del os.environ["GS_SSH_CONFIG"]
        if before is not None:
            os.environ["GS_SSH_CONFIG"] = before
