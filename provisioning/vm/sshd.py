"""A real sshd in a clean root file system of its own on this machine: a host at native speed, for
tests and for the benchmark."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning import commands, rootfs
from provisioning.errors import HostFailed
from provisioning.vm import image, qemu, ssh_config

PACKAGES = ("openssh-server", "procps", "sudo")

#: root and these users take our key; sudo is for two of them, of which one is to give a password.
#: Nothing of the host's is asked for.
SCRIPT = """\
mkdir -p /run/sshd
for name in gs-plain gs-admin gs-asked; do
  useradd --create-home --password '*' $name
done
echo 'gs-asked:{password}' | chpasswd
printf '%s\\n' 'gs-admin ALL=(ALL) NOPASSWD: ALL' 'gs-asked ALL=(ALL) ALL' >/etc/sudoers.d/gs
for home in /root /home/*; do
  mkdir -p $home/.ssh && cp /key.pub $home/.ssh/authorized_keys
  chown -R --reference=$home $home/.ssh && chmod -R go= $home/.ssh
done
exec /usr/sbin/sshd -D -e -p {port} -o ListenAddress=127.0.0.1 -o UsePAM=no -o StrictModes=yes
"""


@dataclass(frozen=True)
class Sshd:
    """One that answers at this port of the loopback address."""

    root: Path
    port: int

    @property
    def known_host(self) -> str:
        """Its line of known_hosts."""
        key = self.root / "etc/ssh/ssh_host_ed25519_key.pub"
        return ssh_config.known_host(self.port, key.read_text())


@contextmanager
def serving(
    folder: Path, password: str = "", before: Sequence[commands.Word] = ()
) -> Iterator[Sshd]:
    """For the length of the block; ``folder`` is a directory of its own, ``password`` what sudo
    wants to know of gs-asked, ``before`` what is put before the command that starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = qemu.free_port(), folder / "sshd.log"
    with rootfs.unpacked(folder / "root", "bookworm", PACKAGES) as root:
        shutil.copy(image.ssh_key().with_suffix(".pub"), root / "key.pub")
        words = rootfs.within(root, "sh", "-c", SCRIPT.format(port=port, password=password))
        with log.open("wb") as sink:
            process = commands.spawn([*before, *words], stdout=sink)
        try:
            _wait_for(port, log)
            yield Sshd(root, port)
        finally:
            commands.end(process)


def _wait_for(port: int, log: Path) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise HostFailed(
        "sshd does not answer on this machine", log.read_text().strip()[-500:], log=log
    )
