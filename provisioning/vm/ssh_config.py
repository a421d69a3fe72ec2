"""Hosts on this machine as ssh_config(5) and known_hosts have them: no other key is taken."""

from __future__ import annotations

from pathlib import Path

from provisioning.vm import image


def host(name: str, port: int, known_hosts: Path, user: str = "root") -> str:
    """Whoever answers at this port of the loopback address, by this name, with our key."""
    return f"""\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {image.ssh_key()}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  PasswordAuthentication no
  ConnectTimeout 20
  LogLevel ERROR
"""


def known_host(port: int, public_key: str) -> str:
    """The line of known_hosts for it; the key as in a file .pub, with a comment or without."""
    kind, key = public_key.split()[:2]
    return f"[127.0.0.1]:{port} {kind} {key}\n"
